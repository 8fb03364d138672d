"""Trains the localizer on stored features, under two protocols at once.

honest: the epoch is chosen on val (`best.pt`). published: it is chosen on test, as the published
results do (`published.pt`). The test scores have a curve of their own, and drive nothing else.

Source: the schedule of the published results: Adam, learning rate halved at milestones, gradient
norm clipped, the contrast from a share of the epochs on.
"""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm import tqdm

from cace.conventions import SPLITS
from cace.evaluation.metrics import Scores, score, segment_predictions
from cace.features.batches import Silenced, Split
from cace.features.store import FeatureStore
from cace.finetuning.processes import Team
from cace.localizers import checkpoints
from cace.localizers.cace_net import Localizer
from cace.localizers.parts.losses import LossTerms, bece_floor, loss_terms, part_of_batch, total
from cace.settings import ContrastForm, Guidance, Heads, Precision
from cace.system.errors import UserError
from cace.system.resume import Stateful, put_back, read_state, save_state

MEANS = ("loss", *LossTerms._fields, "contrast_excess")  # of the curve, over the train clips
Curve = list[dict[str, float | int | None]]  # one entry an epoch
# On a CPU; the activations of one part at a time lie in memory, and fit its caches better.
CLIPS_AT_ONCE = 8
CHOSEN_AT = 0.5  # θ at which epochs are compared, on val and on test
# Baselines trained like the localizer with one modality silenced, by the name of their folder.
UNIMODAL: dict[str, Silenced] = {"visual_only": "audio", "audio_only": "visual"}


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
    precision: Precision  # of the grid's arithmetic in training


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
    team: Team,
    silenced: Silenced | None = None,
    bar_position: int = 0,
) -> Fitted:
    """Trains one localizer and writes `best.pt`, `published.pt` and `last.pt` under `into`.

    state: a file that is written after every epoch. Where it is there already, training goes on
        after its last epoch, to the same numbers as if it had never stopped; the arguments must be
        the same.
    team: those who train it; all of them call this, and the first writes.
    Raises: UserError where the loss is not finite.
    """
    torch.manual_seed(seed)
    train, val, test = (Split(store, name, device, silenced) for name in SPLITS)
    localizer = build_localizer(store, design).to(device)
    optimizer = torch.optim.Adam(localizer.parameters(), lr=objective.learning_rate, fused=True)
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
    whole = team.leads and state.exists() and best.path.exists() and published.path.exists()
    if (content := team.share(read_state(state) if whole else None)) is not None:
        kept = put_back(content, parts)
        curve, test_curve = kept["curve"], kept["test_curve"]
        best.accuracy, published.accuracy = kept["best"], kept["published"]
    bar = tqdm(
        range(len(curve), objective.epochs),
        desc=f"train {name}",
        initial=len(curve),
        total=objective.epochs,
        position=bar_position,
        disable=None if team.leads else True,
    )
    for epoch in bar:
        localizer.contrast_on = contrast_on(epoch)
        learning_rate = float(schedule.get_last_lr()[0])
        where = f"{name}, {epoch=}"
        means = train_one_epoch(localizer, train, optimizer, objective, team, [seed, epoch], where)
        schedule.step()
        on_val, on_test = (
            evaluate(localizer, split, objective.batch_size, CHOSEN_AT)[0] for split in (val, test)
        )
        if team.leads:
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
        if team.leads:
            save_state(state, parts, {**results, **accuracies})
        if team.leads and bar.disable and (epoch + 1) % max(1, objective.epochs // 10) == 0:
            shown = f"loss {means['loss']:.3f}, val accuracy {on_val.accuracy:.3f}"
            print(f"train {name}: epoch {epoch + 1}/{objective.epochs}, {shown}", flush=True)
    last = objective.epochs - 1
    localizer.contrast_on = contrast_on(last)
    if team.leads:
        checkpoints.save(into / "last.pt", localizer, {**about, "epoch": last})
    return Fitted(curve, test_curve)


def train_one_epoch(
    localizer: Localizer,
    train: Split,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    team: Team,
    draw: list[int],
    where: str,
) -> dict[str, float | None]:
    """One pass over the train split in random order; mean loss and terms over its clips.

    A batch is computed in parts, which the team shares out: the gradients of the parts add up to
    that of the batch. What is drawn for a part depends on `draw` and its place, not on who computes
    it.

    Returns: beside them what the contrast does, None while it is off: `contrast_excess`, how far it
        lies above its floor, and `contrast_gradient`, its share of the gradient's norm, measured on
        the first part of the first batch.
    """
    localizer.train()
    background = train.store.background
    sums = torch.zeros(len(MEANS), dtype=torch.float64)
    gradient_share = None
    _draw_from(draw)
    for step, batch in enumerate(torch.randperm(len(train)).split(objective.batch_size)):
        labels = torch.from_numpy(train.labels[batch.numpy()])
        optimizer.zero_grad()
        for number, places in enumerate(batch.split(part_size(len(batch), train.device, team))):
            if number % team.count != team.index:
                continue
            _draw_from([*draw, step, number])
            clips = train.clips(places)
            with in_precision(objective.precision, train.device):
                out = localizer(clips.visual, clips.audio)
            terms = loss_terms(
                out,
                clips.labels,
                background,
                contrast=localizer.contrast_on,
                temperature=objective.contrast_tau,
                form=objective.contrast_form,
            )
            own = torch.from_numpy(train.labels[places.numpy()])
            share = part_of_batch(terms, own, labels, background)
            loss = total(share, objective.contrast_weight)
            values = _as_numbers(loss, share)
            if not np.isfinite(values["loss"]):
                raise UserError(
                    f"train, {where}: the loss is {values['loss']}; its terms: {values}. "
                    f"Lower train.learning_rate, or look for NaN in the features"
                )
            if terms.contrast is not None:
                floor = bece_floor(own != background) * len(places) / len(batch)
                values["contrast_excess"] = values["contrast"] - floor
                if (step, number) == (0, 0):
                    gradient_share = contrast_gradient_share(localizer, terms, objective)
            loss.backward()
            sums += len(batch) * torch.tensor([values.get(name, 0.0) for name in MEANS])
        team.add_gradients(localizer.parameters())
        nn.utils.clip_grad_norm_(localizer.parameters(), objective.max_grad_norm)
        optimizer.step()
    sums = team.total(sums.to(train.device)).cpu()
    means: dict[str, float | None] = dict(zip(MEANS, (sums / len(train)).tolist(), strict=True))
    if not localizer.contrast_on:
        means["contrast_excess"] = None
    return {**means, "contrast_gradient": gradient_share}


def part_size(clips: int, device: torch.device, team: Team) -> int:
    """Clips of a batch that are computed at once: on a GPU all that falls to a process.

    On a CPU it does not depend on the team, so several processes draw what one would.
    """
    return CLIPS_AT_ONCE if device.type == "cpu" else -(-clips // team.count)


def in_precision(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """Where the localizer computes its grid in this precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def _draw_from(place: list[int]) -> None:
    torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))


def contrast_gradient_share(localizer: Localizer, terms: LossTerms, objective: Objective) -> float:
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
    named = {key: term for key, term in terms._asdict().items() if term is not None}
    # One transfer: each waits for the GPU.
    values = torch.stack([loss, *named.values()]).tolist()
    return dict(zip(("loss", *named), values, strict=True))


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
