"""Trains one localizer on stored features, under two protocols at once.

honest: the epoch is chosen on val (`best.pt`). best-on-test: it is chosen on test, as published
results do (`best_on_test.pt`). The test scores have a separate curve and decide nothing else.

Source: the schedule of the published results: Adam, learning rate lowered at milestones, gradient
norm clipped.
"""

import math
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from cace.conventions import SPLITS, THRESHOLD
from cace.evaluation.accuracy import accuracy, category_accuracy, event_f1
from cace.evaluation.predict import predict, sizes_of
from cace.features.batches import Silenced, Split
from cace.features.store import FeatureStore
from cace.features.tags import TaggedSplit
from cace.localizers.parts import checkpoints
from cace.localizers.parts.protocol import Localizer
from cace.settings import Precision, Source, WeakParams
from cace.system.errors import UserError
from cace.system.resume import Stateful, read_state, restore_state, save_state
from cace.system.workers import epoch_bar, report_epoch
from cace.training.curves import Curves


class Schedule(NamedTuple):
    """How long and how fast a localizer learns: section train of the settings."""

    epochs: int
    batch_size: int  # clips
    learning_rate: float
    milestones: tuple[int, ...]  # epochs after which the learning rate is multiplied by `decay`
    decay: float
    max_grad_norm: float | None  # None: gradients are not clipped
    precision: Precision  # of the grid's arithmetic


class Best:
    """The checkpoint of the epoch with the highest accuracy, the first if several are equal."""

    def __init__(self, path: Path, chosen_on: str) -> None:
        self.path, self.chosen_on = path, chosen_on
        self.accuracy = -1.0

    def offer(
        self, name: str, localizer: Localizer, accuracy: float, about: dict[str, Any]
    ) -> None:
        """Writes the checkpoint if it is the best so far."""
        if accuracy > self.accuracy:
            chosen = {"chosen_on": self.chosen_on, "accuracy": accuracy}
            checkpoints.save(self.path, name, localizer, {**about, **chosen})
            self.accuracy = accuracy


def fit(
    name: str,
    settings: dict[str, Any],
    store: FeatureStore,
    into: Path,
    *,
    state: Path,
    seed: int,
    schedule: Schedule,
    device: torch.device,
    source: Source,
    silenced: Silenced | None = None,
    weak: WeakParams | None = None,
    bar_position: int = 0,
) -> Curves:
    """Trains one localizer and writes `best.pt`, `best_on_test.pt` and `last.pt` under `into`.

    name, settings: the method and the arguments of its constructor.
    state: a file that is written after every epoch. If it exists, training resumes after its last
        epoch and gives the same numbers as without the interruption; the arguments must be the
        same.
    source: of the clips; the checkpoint records it.
    weak: how to learn from the tags of clips alone; None: from the labels of their segments.
    Raises: UserError if the loss is not finite.
    """
    torch.manual_seed(seed)
    train, val, test = (Split(store, split, device, silenced) for split in SPLITS)
    if weak:
        mismatch = weak.mismatch if weak.form == "common" else 0.0
        train = TaggedSplit(store, device, top=weak.top, mismatch=mismatch)
    localizer = checkpoints.build(name, sizes_of(train), **settings).to(device)
    optimizer = torch.optim.Adam(localizer.parameters(), lr=schedule.learning_rate, fused=True)
    rates = torch.optim.lr_scheduler.MultiStepLR(optimizer, schedule.milestones, schedule.decay)
    about = {**_origin(store, train), "source": source, "seed": seed, "silenced": silenced}
    about["supervision"] = "weak" if weak else "full"
    best, best_on_test = Best(into / "best.pt", "val"), Best(into / "best_on_test.pt", "test")
    parts: dict[str, Stateful] = {"localizer": localizer, "optimizer": optimizer, "rates": rates}
    curves = Curves([], [])
    if state.exists() and best.path.exists() and best_on_test.path.exists():
        results = restore_state(read_state(state), parts)
        curves = Curves(*results["curves"])
        best.accuracy, best_on_test.accuracy = results["best"]

    epochs, what = range(len(curves.train), schedule.epochs), f"train {into.name}"
    for epoch in (bar := epoch_bar(epochs, what, bar_position)):
        localizer.start_epoch(epoch / schedule.epochs)
        rate = float(rates.get_last_lr()[0])
        means = train_one_epoch(localizer, train, optimizer, schedule, f"{into.name}, {epoch=}")
        rates.step()
        on_val, on_test = (scores(localizer, split) for split in (val, test))
        best.offer(name, localizer, on_val["accuracy"], {**about, "epoch": epoch})
        best_on_test.offer(name, localizer, on_test["accuracy"], {**about, "epoch": epoch})
        val_scores = {f"val_{key}": value for key, value in on_val.items()}
        curves.train.append({"epoch": epoch, "learning_rate": rate, **means, **val_scores})
        curves.test.append({"epoch": epoch, "test_accuracy": on_test["accuracy"]})
        accuracies = best.accuracy, best_on_test.accuracy
        save_state(state, parts, {"curves": tuple(curves), "best": accuracies})
        shown = f"loss {means['loss']:.3f}, val accuracy {on_val['accuracy']:.3f}"
        report_epoch(bar, what, epoch + 1, shown)
    checkpoints.save(into / "last.pt", name, localizer, {**about, "epoch": schedule.epochs - 1})
    return curves


def train_one_epoch(
    localizer: Localizer,
    train: Split,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    where: str,
) -> dict[str, float]:
    """One pass over the train split in random order.

    A batch is computed in parts on a CPU: their gradients add up to that of the batch.

    Returns: the loss and each of its terms, means over the clips.
    """
    localizer.train()
    at_once = localizer.clips_at_once if train.device.type == "cpu" else schedule.batch_size
    sums: Counter[str] = Counter()
    for parts in train.shuffled(schedule.batch_size, at_once):
        optimizer.zero_grad()
        for batch in parts:
            with in_precision(schedule.precision, train.device):
                out = localizer(batch.visual, batch.audio)
            terms = localizer.losses(out, batch)
            loss = torch.stack([*terms.values()]).sum()
            values = torch.stack([loss, *terms.values()]).tolist()  # one wait for the GPU, not many
            if not math.isfinite(values[0]):
                raise UserError(
                    f"train, {where}: the loss is {values[0]}; its terms: "
                    f"{dict(zip(terms, values[1:], strict=True))}. Lower train.learning_rate, or "
                    f"look for NaN in the features"
                )
            loss.backward()
            for term, value in zip(("loss", *terms), values, strict=True):
                sums[term] += value * batch.clips
        if schedule.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(localizer.parameters(), schedule.max_grad_norm)
        optimizer.step()
    return {term: total / len(train) for term, total in sums.items()}


def in_precision(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """A context in which a localizer computes its grid in this precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def scores(localizer: Localizer, split: Split) -> dict[str, float]:
    """What an epoch is judged by, on val or on test."""
    found = predict(localizer, split, THRESHOLD)
    background = localizer.background
    return {
        "accuracy": accuracy(found.labels, split.labels),
        "category_accuracy": category_accuracy(found.clip_category, split.labels, background),
        "event_f1": event_f1(found.labels, split.labels, background),
    }


def _origin(store: FeatureStore, train: Split) -> dict[str, Any]:
    """What a checkpoint contains about the features that it was trained on."""
    # A data set may name categories of which it has no clip in train: those cannot be learned.
    trained = set(train.labels.ravel().tolist())
    return {
        "categories": list(store.categories),
        "trained_categories": [c for k, c in enumerate(store.categories) if k in trained],
        "encoders": store.provenance["encoders"],
        "frames": store.provenance["settings"],
        "grid": list(train.grid),
        "segments": store.labels.shape[1],
    }
