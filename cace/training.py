"""Trains the localizer on stored features, under two protocols at once.

honest: the epoch is chosen on val (`best.pt`). published: it is chosen on test, as the published
results do (`published.pt`). The test scores have a curve of their own, and drive nothing else.

Source: the schedule of the published results: Adam, learning rate halved at milestones, gradient
norm clipped, the contrast from a share of the epochs on.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm import tqdm

from cace import checkpoints
from cace.annotations import SPLITS
from cace.errors import UserError
from cace.features import FeatureStore
from cace.localizer import Localizer
from cace.losses import LossTerms, bece_floor, loss_terms, total
from cace.metrics import Scores, score, segment_predictions
from cace.params import ContrastForm, Guidance, Heads
from cace.resuming import Stateful, load_state, save_state

Curve = list[dict[str, float | int | None]]  # one entry an epoch
CHOSEN_AT = 0.5  # θ at which epochs are compared, on val and on test
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
    contrast_form: ContrastForm


class Design(NamedTuple):
    """Settings of the localizer that do not follow from the features."""

    guidance: Guidance
    beta: float
    psi: float
    bece: bool
    bece_lambda: float
    bece_noise: float
    bece_heads: Heads
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


class Fitted(NamedTuple):
    """What came of training one localizer."""

    curve: Curve
    test_curve: Curve  # for the published protocol


class Best:
    """The checkpoint of the epoch with the highest accuracy, the first of equals."""

    def __init__(self, path: Path, chosen_on: str) -> None:
        self.path, self.chosen_on = path, chosen_on
        self.accuracy = -1.0

    def see(self, localizer: Localizer, accuracy: float, about: dict[str, Any]) -> None:
        """Writes the checkpoint where it is the best so far."""
        if accuracy > self.accuracy:
            chosen = {"chosen_on": self.chosen_on, "accuracy": accuracy}
            checkpoints.save(self.path, localizer, {**about, **chosen})
            self.accuracy = accuracy


def fit(
    store: FeatureStore,
    into: Path,
    *,
    state: Path,
    seed: int,
    design: Design,
    objective: Objective,
    device: torch.device,
    silenced: Silenced | None = None,
    bar_position: int = 0,
) -> Fitted:
    """Trains one localizer and writes `best.pt`, `published.pt` and `last.pt` under `into`.

    state: a file that is written after every epoch. Where it is there already, training goes on
        after its last epoch, to the same numbers as if it had never stopped; the arguments must be
        the same.
    Raises: UserError where the loss is not finite.
    """
    torch.manual_seed(seed)
    train, val, test = (Split(store, name, device, silenced) for name in SPLITS)
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

    def contrast_on(epoch: int) -> bool:
        return design.bece and epoch >= objective.contrast_start * objective.epochs

    name = into.name
    curve: Curve = []
    test_curve: Curve = []
    best, published = Best(into / "best.pt", "val"), Best(into / "published.pt", "test")
    parts: dict[str, Stateful] = {
        "localizer": localizer,
        "optimizer": optimizer,
        "schedule": schedule,
    }
    if state.exists() and best.path.exists() and published.path.exists():
        kept = load_state(state, parts)
        curve, test_curve = kept["curve"], kept["test_curve"]
        best.accuracy, published.accuracy = kept["best"], kept["published"]
    bar = tqdm(
        range(len(curve), objective.epochs),
        desc=f"train {name}",
        initial=len(curve),
        total=objective.epochs,
        position=bar_position,
        disable=None,
    )
    for epoch in bar:
        localizer.contrast_on = contrast_on(epoch)
        learning_rate = float(schedule.get_last_lr()[0])
        means = train_one_epoch(localizer, train, optimizer, objective, where=f"{name}, {epoch=}")
        schedule.step()
        on_val, on_test = (
            evaluate(localizer, split, objective.batch_size, CHOSEN_AT)[0] for split in (val, test)
        )
        best.see(localizer, on_val.accuracy, {**about, "epoch": epoch})
        published.see(localizer, on_test.accuracy, {**about, "epoch": epoch})
        curve.append(
            {
                "epoch": epoch,
                "learning_rate": learning_rate,
                **means,
                "val_accuracy": on_val.accuracy,
                "val_category_accuracy": on_val.category_accuracy,
                "val_event_f1": on_val.event_f1,
            }
        )
        test_curve.append({"epoch": epoch, "test_accuracy": on_test.accuracy})
        results = {"curve": curve, "test_curve": test_curve}
        accuracies = {"best": best.accuracy, "published": published.accuracy}
        save_state(state, parts, {**results, **accuracies})
        if bar.disable and (epoch + 1) % max(1, objective.epochs // 10) == 0:
            shown = f"loss {means['loss']:.3f}, val accuracy {on_val.accuracy:.3f}"
            print(f"train {name}: epoch {epoch + 1}/{objective.epochs}, {shown}", flush=True)
    last = objective.epochs - 1
    localizer.contrast_on = contrast_on(last)
    checkpoints.save(into / "last.pt", localizer, {**about, "epoch": last})
    return Fitted(curve, test_curve)


def train_one_epoch(
    localizer: Localizer,
    train: Split,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    where: str,
) -> dict[str, float | None]:
    """One pass over the train split in random order; mean loss and terms over its clips.

    Returns: beside them what the contrast does, None while it is off: `contrast_excess`, how far it
        lies above its floor, and `contrast_gradient`, its share of the gradient's norm, measured on
        the first batch.
    """
    localizer.train()
    background = train.store.background
    sums: dict[str, float] = {}
    gradient_share = None
    for clips in train.batches(objective.batch_size, torch.randperm(len(train))):
        terms = loss_terms(
            localizer(clips.visual, clips.audio),
            clips.labels,
            background,
            contrast=localizer.contrast_on,
            temperature=objective.contrast_tau,
            form=objective.contrast_form,
        )
        loss = total(terms, objective.contrast_weight)
        values = _as_numbers(loss, terms)
        if not np.isfinite(values["loss"]):
            raise UserError(
                f"train, {where}: the loss is {values['loss']}; its terms: {values}. "
                f"Lower train.learning_rate, or look for NaN in the features"
            )
        if terms.contrast is not None:
            values["contrast_excess"] = values["contrast"] - bece_floor(clips.labels != background)
            if gradient_share is None:
                gradient_share = contrast_gradient_share(localizer, terms, objective)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(localizer.parameters(), objective.max_grad_norm)
        optimizer.step()
        for key, value in values.items():
            sums[key] = sums.get(key, 0.0) + value * len(clips.labels)
    means = {key: value / len(train) for key, value in sums.items()}
    return {"contrast_excess": None, **means, "contrast_gradient": gradient_share}


def contrast_gradient_share(
    localizer: Localizer, terms: LossTerms, objective: Objective
) -> float | None:
    """|g| of the weighted contrast over |g| of it plus |g| of the other terms."""
    assert terms.contrast is not None
    contrast, others = (
        torch.cat(
            [
                gradient.flatten()
                for gradient in torch.autograd.grad(
                    part, list(localizer.parameters()), retain_graph=True, allow_unused=True
                )
                if gradient is not None
            ]
        ).norm()
        for part in (
            objective.contrast_weight * terms.contrast,
            total(terms._replace(contrast=None), 0.0),
        )
    )
    return (contrast / (contrast + others)).item()


def _as_numbers(loss: Tensor, terms: LossTerms) -> dict[str, float]:
    named = {k: torch.zeros(()) if t is None else t.detach() for k, t in terms._asdict().items()}
    return {key: value.item() for key, value in {"loss": loss.detach(), **named}.items()}


@torch.inference_mode()
def evaluate(
    localizer: Localizer, split: Split, batch_size: int, threshold: float
) -> tuple[Scores, Predictions]:
    """Scores and predictions of a localizer on a split, in the precision of its weights."""
    localizer.eval()
    precision = next(localizer.parameters()).dtype
    parts = []
    for clips in split.batches(batch_size):
        out = localizer(clips.visual.to(precision), clips.audio.to(precision))
        confidence, category = out.class_logits.softmax(dim=-1).max(dim=-1)
        parts.append((out.relevance.sigmoid(), category, confidence))
    predictions = Predictions(*(torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True)))
    background = split.store.background
    predicted = segment_predictions(
        predictions.relevance, predictions.category, threshold, background
    )
    return score(predicted, split.labels, predictions.category, background), predictions
