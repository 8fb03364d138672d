"""Predictions of a localizer on a split of the feature store."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from cace.conventions import SCORED_CLIPS
from cace.evaluation.accuracy import segment_predictions
from cace.features.batches import Silenced, Split
from cace.localizers.parts import checkpoints
from cace.localizers.parts.about import Encoders
from cace.localizers.parts.checkpoints import Checkpoint
from cace.localizers.parts.protocol import Localizer, Sizes
from cace.settings import Supervision, check_some
from cace.system.errors import UserError


class Predictions(NamedTuple):
    """What a localizer predicts for the N clips of a split, at one threshold."""

    labels: Int[np.ndarray, "N T"]  # category of each segment, or C for background
    relevance: Float[np.ndarray, "N T"]  # probability of an event
    category: Int[np.ndarray, "N T"]  # of the event, if there is one
    confidence: Float[np.ndarray, "N T"]  # probability of that category among the categories
    clip_category: Int[np.ndarray, " N"]


@torch.inference_mode()
def predict(
    localizer: Localizer, split: Split, threshold: float, batch_size: int = SCORED_CLIPS
) -> Predictions:
    """Predictions on all clips of a split, in the precision of the localizer's weights.

    threshold: θ of section 3.5: an event is a segment whose relevance is above it.
    Raises: UserError if the localizer gives NaN, as it does for features that are NaN.
    """
    localizer.eval()
    precision = next(localizer.parameters()).dtype
    parts = []
    for batch in split.batches(batch_size):
        out = localizer(batch.visual.to(precision), batch.audio.to(precision))
        relevance = out.relevance.sigmoid()
        confidence, category = out.class_logits.softmax(dim=-1).max(dim=-1)
        by_mean = out.class_logits.mean(dim=1).argmax(dim=-1)
        columns = category.expand_as(relevance), confidence.expand_as(relevance)
        parts.append((relevance, *columns, by_mean))
    relevance, category, confidence, by_mean = (
        torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True)
    )
    if not (np.isfinite(relevance).all() and np.isfinite(confidence).all()):
        raise UserError(
            f"{split.store.path}: the localizer gives no numbers (NaN) for its features; look for "
            f"NaN or infinity in them"
        )
    labels = segment_predictions(relevance, category, threshold, localizer.background)
    clips = _clip_category(labels, by_mean, localizer.background)
    return Predictions(labels, relevance, category, confidence, clips)


def _clip_category(
    labels: Int[np.ndarray, "N T"], by_mean: Int[np.ndarray, " N"], background: int
) -> Int[np.ndarray, " N"]:
    """That of most predicted event segments; without any, that of the largest mean logit."""
    votes = (labels[:, :, None] == np.arange(background)).sum(axis=1)  # [N, C]
    return np.where(votes.any(axis=1), votes.argmax(axis=1), by_mean)


def sizes_of(split: Split) -> Sizes:
    """What a localizer must be built for to read the split."""
    store = split.store
    height, width = split.grid
    return Sizes(
        store.visual.shape[-1], store.audio.shape[-1], len(store.categories), height * width
    )


def load_for(
    split: Split,
    path: Path,
    name: str | None = None,
    *,
    supervision: Supervision | None = None,
    **settings: Any,
) -> Localizer:
    """The localizer of a checkpoint, on the split's device.

    name: the method, if another one is to be refused.
    supervision: refuses a checkpoint that is known to be of the other one.
    settings: of an authors' checkpoint.
    Raises: UserError as `expect_fit`, or if the file is damaged.
    """
    checkpoint = checkpoints.read(path, name, **settings)
    expect_fit(checkpoint, split, path)
    found = checkpoint.about.get("supervision", supervision)
    if supervision and found != supervision:
        raise UserError(
            f"{path}: was trained with {found} supervision, and params.yaml, supervision, is "
            f"{supervision}; run `dvc repro train`"
        )
    return checkpoint.localizer.to(split.device)


def expect_fit(checkpoint: Checkpoint, split: Split, path: Path) -> None:
    """Checks that a localizer would read what it was trained on.

    path: of the checkpoint, for messages.
    Raises: UserError if its features, grid, encoders, categories or silenced modality are others
        than those of the split. An authors' checkpoint only contains the sizes of its features.
    """
    localizer, about, store = checkpoint.localizer, checkpoint.about, split.store
    fields = [*Sizes._fields[:-1], *(["positions"] if localizer.fixed_grid else [])]
    expected, found = localizer.sizes._asdict(), sizes_of(split)._asdict()
    if differ := [field for field in fields if expected[field] != found[field]]:
        what = ", ".join(
            f"{expected[field]} {field.replace('_', ' ')} (got {found[field]})" for field in differ
        )
        raise UserError(
            f"{path}: expects {what} from {store.path}; run `dvc repro train`, or extract the "
            f"features it needs"
        )
    if about.get("categories", list(store.categories)) != list(store.categories):
        raise UserError(
            f"{path}: was trained for other categories than those of {store.path}; "
            f"run `dvc repro train`"
        )
    encoders = about.get("encoders", {}), store.provenance["encoders"]
    check_some(Encoders, encoders[1], f"{store.path}, provenance: encoders")
    for modality in sorted(set(encoders[0]) & set(encoders[1])):
        trained, here = (cards[modality] for cards in encoders)
        known = [key for key in ("name", "sha256") if key in trained and key in here]
        if any(trained[key] != here[key] for key in known):
            raise UserError(
                f"{path}: was trained on {modality} features of {_encoder(trained)}, and those of "
                f"{store.path} are of {_encoder(here)}; run `dvc repro train`, or name the feature "
                f"store that it was trained on"
            )
    if (silenced := about.get("silenced", split.silenced)) != split.silenced:
        raise UserError(
            f"{path}: was trained with {_silence(silenced)}, and is to be scored with "
            f"{_silence(split.silenced)}; run `dvc repro train`"
        )
    if (grid := tuple(about.get("grid", split.grid))) != split.grid:
        trained, here = ("×".join(map(str, sides)) for sides in (grid, split.grid))
        raise UserError(
            f"{path}: was trained on maps of {trained}, and those of {store.path} are {here}; run "
            f"`dvc repro train`, or name the feature store that it was trained on"
        )


def _encoder(card: dict[str, Any]) -> str:
    return f"{card['name']} (sha256 {str(card.get('sha256', 'unknown'))[:12]})"


def _silence(silenced: Silenced | None) -> str:
    return f"{silenced} silenced" if silenced else "both modalities"


@torch.inference_mode()
def attend(
    localizer: Localizer, split: Split, places: Sequence[int]
) -> Float[np.ndarray, "n T H W"] | None:
    """Where sound guides vision to, in the samples at these places of the split; sums to 1.

    None if sound does not guide vision.
    """
    batch = split.batch(torch.tensor(places))
    precision = next(localizer.parameters()).dtype
    attention = localizer(batch.visual.to(precision), batch.audio.to(precision)).attention
    return None if attention is None else attention.float().cpu().numpy()
