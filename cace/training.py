"""Trains the localizer on stored features; the epoch is chosen on the val split.

Source: the schedule of the published results: Adam, learning rate halved at milestones, gradient
norm clipped, the contrast from a share of the epochs on. They chose the epoch on
test; this does not.
"""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm import tqdm

from cace import checkpoints
from cace.attention import Guidance
from cace.errors import UserError
from cace.features import FeatureStore
from cace.localizer import Localizer
from cace.losses import LossTerms, loss_terms, total
from cace.metrics import Scores, score, segment_predictions

Curve = list[dict[str, float | int]]  # one entry an epoch
Silenced = Literal["visual", "audio"]
# Baselines trained like the localizer with one modality silenced, by the name of their folder.
UNIMODAL: dict[str, Silenced] = {"visual_only": "audio", "audio_only": "visual"}


class Clips(NamedTuple):
    """A batch of samples on the device."""

    visual: Float[Tensor, "B T H W V"]
    audio: Float[Tensor, "B T A"]
    labels: Int[Tensor, "B T"]


class Predictions(NamedTuple):
    """What a localizer says about a split."""

    relevance: Float[np.ndarray, "N T"]  # probability
    category: Int[np.ndarray, " N"]
    confidence: Float[np.ndarray, " N"]  # probability of the category among the categories


class Objective(NamedTuple):
    """Optimizer, schedule and contrast settings: see params.yaml and the profiles."""

    epochs: int
    batch_size: int
    learning_rate: float
    milestones: tuple[int, ...]
    decay: float
    max_grad_norm: float
    contrast_start: float  # share of the epochs
    contrast_weight: float
    contrast_tau: float


class Design(NamedTuple):
    """Settings of the localizer that do not follow from the features."""

    guidance: Guidance
    beta: float
    psi: float
    bece: bool
    bece_lambda: float
    bece_noise: float
    alpha: float
    gamma: float


class Split:
    """The samples of one split, read from the store batch by batch.

    silenced: that modality is zero.
    """

    def __init__(
        self, store: FeatureStore, name: str, device: torch.device, silenced: Silenced | None = None
    ) -> None:
        self.store, self.device, self.silenced = store, device, silenced
        self.rows = store.rows(name)
        self.labels = store.labels[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, size: int, order: Int[Tensor, " n"] | None = None) -> Iterator[Clips]:
        """Batches in the given order; the last one may be smaller."""
        places = np.arange(len(self)) if order is None else order.numpy()
        for i in range(0, len(self), size):
            rows = self.rows[places[i : i + size]]
            yield Clips(
                self._visual(rows),
                self._audio(rows),
                torch.from_numpy(self.store.labels[rows]).to(self.device),
            )

    def _visual(self, rows: np.ndarray) -> Tensor:
        if self.silenced == "visual":
            # One position: a grid of equal positions attends to itself as a single one does.
            _, segments, _, _, channels = self.store.visual.shape
            return torch.zeros(len(rows), segments, 1, 1, channels, device=self.device)
        return torch.from_numpy(self.store.visual[rows]).to(self.device).float()

    def _audio(self, rows: np.ndarray) -> Tensor:
        audio = torch.from_numpy(self.store.audio[rows]).to(self.device).float()
        return torch.zeros_like(audio) if self.silenced == "audio" else audio


def build_localizer(store: FeatureStore, design: Design) -> Localizer:
    """An untrained localizer that fits the store."""
    return Localizer(
        store.visual.shape[-1], store.audio.shape[-1], len(store.categories), **design._asdict()
    )


def fit(
    store: FeatureStore,
    into: Path,
    *,
    seed: int,
    design: Design,
    objective: Objective,
    device: torch.device,
    silenced: Silenced | None = None,
    bar_position: int = 0,
) -> Curve:
    """Trains one localizer and writes `best.pt` (by val accuracy) and `last.pt` under `into`.

    Returns: the curve, one entry an epoch.
    Raises: UserError where the loss is not finite; nothing is written then.
    """
    torch.manual_seed(seed)
    train, val = (Split(store, name, device, silenced) for name in ("train", "val"))
    localizer = build_localizer(store, design).to(device)
    optimizer = torch.optim.Adam(localizer.parameters(), lr=objective.learning_rate)
    schedule = torch.optim.lr_scheduler.MultiStepLR(
        optimizer, objective.milestones, objective.decay
    )
    about = {
        "categories": list(store.categories),
        "encoders": store.provenance["encoders"],
        "frames": store.provenance["settings"],
        "grid": list(store.grid),
        "segments": store.labels.shape[1],
        "seed": seed,
        "silenced": silenced,
    }
    name = into.name
    curve: Curve = []
    best = copy.deepcopy(localizer)
    bar = tqdm(range(objective.epochs), desc=f"train {name}", position=bar_position, disable=None)
    for epoch in bar:
        localizer.contrast_on = design.bece and epoch >= objective.contrast_start * objective.epochs
        learning_rate = float(schedule.get_last_lr()[0])
        means = train_one_epoch(localizer, train, optimizer, objective, where=f"{name}, {epoch=}")
        schedule.step()
        scores = evaluate(localizer, val, objective.batch_size, threshold=0.5)[0]
        if not curve or scores.accuracy > max(row["val_accuracy"] for row in curve):
            best = copy.deepcopy(localizer)
            best_about = {**about, "epoch": epoch, "val_accuracy": scores.accuracy}
        curve.append(
            {
                "epoch": epoch,
                "learning_rate": learning_rate,
                **means,
                "val_accuracy": scores.accuracy,
                "val_category_accuracy": scores.category_accuracy,
                "val_event_f1": scores.event_f1,
            }
        )
        if bar.disable and (epoch + 1) % max(1, objective.epochs // 10) == 0:
            shown = f"loss {means['loss']:.3f}, val accuracy {scores.accuracy:.3f}"
            print(f"train {name}: epoch {epoch + 1}/{objective.epochs}, {shown}", flush=True)
    last_about = {**about, "epoch": epoch, "val_accuracy": scores.accuracy}
    checkpoints.save(into / "best.pt", best, best_about)
    checkpoints.save(into / "last.pt", localizer, last_about)
    return curve


def train_one_epoch(
    localizer: Localizer,
    train: Split,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    where: str,
) -> dict[str, float]:
    """One pass over the train split in random order; mean loss and terms over its clips."""
    localizer.train()
    background = train.store.background
    sums: dict[str, float] = {}
    for clips in train.batches(objective.batch_size, torch.randperm(len(train))):
        terms = loss_terms(
            localizer(clips.visual, clips.audio),
            clips.labels,
            background,
            contrast=localizer.contrast_on,
            temperature=objective.contrast_tau,
        )
        loss = total(terms, objective.contrast_weight)
        values = _as_numbers(loss, terms)
        if not np.isfinite(values["loss"]):
            raise UserError(
                f"train, {where}: the loss is {values['loss']}; its terms: {values}. "
                f"Lower train.learning_rate, or look for NaN in the features"
            )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(localizer.parameters(), objective.max_grad_norm)
        optimizer.step()
        for key, value in values.items():
            sums[key] = sums.get(key, 0.0) + value * len(clips.labels)
    return {key: value / len(train) for key, value in sums.items()}


def _as_numbers(loss: Tensor, terms: LossTerms) -> dict[str, float]:
    named = {k: torch.zeros(()) if t is None else t.detach() for k, t in terms._asdict().items()}
    return {key: value.item() for key, value in {"loss": loss.detach(), **named}.items()}


@torch.inference_mode()
def evaluate(
    localizer: Localizer, split: Split, batch_size: int, threshold: float
) -> tuple[Scores, Predictions]:
    """Scores and predictions of a localizer on a split."""
    localizer.eval()
    parts = []
    for clips in split.batches(batch_size):
        out = localizer(clips.visual, clips.audio)
        confidence, category = out.class_logits.softmax(dim=-1).max(dim=-1)
        parts.append((out.relevance.sigmoid(), category, confidence))
    predictions = Predictions(*(torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True)))
    background = split.store.background
    predicted = segment_predictions(
        predictions.relevance, predictions.category, threshold, background
    )
    return score(predicted, split.labels, predictions.category, background), predictions
