"""Training on one's own clips: what a smaller grid, network or number of epochs saves and costs.

CACE-Net on features of EfficientNet-Lite0's size at 224 pixels (7 x 7 x 1280) with 12 categories,
on one thread. First the CPU seconds of a training step, forward and backward; the ways take turns,
and the fastest step of each counts. `--accuracy` then trains on drawn features, which takes half
an hour: a clip's event adds the pattern of its category to a part of the grid, and another to the
sound; elsewhere it has one of them, or none. A smaller grid is the mean of the full one.
`--store data/features.h5` trains on your own features instead: with fewer epochs, in bfloat16,
or with half the width.
"""

import itertools
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch
from jaxtyping import Float
from torch.nn.functional import adaptive_avg_pool2d

from benchmarks.measuring import Report, parser
from cace.conventions import SEGMENTS
from cace.data.annotations import Annotations, Row, clip_tags, segment_labels
from cace.features.batches import Batch
from cace.features.store import FeatureStore, create_store
from cace.localizers.parts.checkpoints import build
from cace.localizers.parts.protocol import Localizer, Sizes
from cace.system.device import has_bfloat16, keep_freed_memory
from cace.training.loop import Schedule, fit

SIDE, VISUAL, AUDIO, CATEGORIES = 7, 1280, 128, 12
WIDTH = 512
SPLITS = {"train": 36, "val": 12, "test": 24}  # clips
SEEDS = (0, 1, 2)
SCHEDULE = Schedule(24, 8, 7e-4, (10, 20, 30), 0.5, 0.5, "float32")
SHORT = SCHEDULE._replace(epochs=12, batch_size=4, milestones=(6, 9, 11))
SCHEDULES = [  # of a store, with the width
    (WIDTH, SCHEDULE._replace(epochs=40, batch_size=16)),
    (WIDTH, SHORT._replace(epochs=13, milestones=(7, 10, 12))),
    (WIDTH, SHORT),
    (WIDTH, SHORT._replace(precision="bfloat16")),
    (WIDTH // 2, SCHEDULE._replace(epochs=40, batch_size=16)),
]
NOISE = {VISUAL: 0.9, AUDIO: 0.36}  # standard deviation
GAIN = {VISUAL: 0.5, AUDIO: 0.4}  # of events
DENSITY = {VISUAL: 0.2, AUDIO: 0.35}  # share of a pattern's channels that are not zero


class Way(NamedTuple):
    """Side of the grid, and the number that divides the width."""

    side: int
    narrower: int

    def __str__(self) -> str:
        width = WIDTH // self.narrower
        return f"grid {self.side} x {self.side}, width {width}"


WAYS = [Way(*sizes) for sizes in itertools.product((SIDE, 4), (1, 2))]


def patterns(rng: np.random.Generator, count: int, channels: int) -> Float[np.ndarray, "N D"]:
    """Sparse and not negative, as after a ReLU; their mean square is 1."""
    values = rng.gamma(1.0, 1.0, (count, channels))
    values *= rng.random((count, channels)) < DENSITY[channels]
    return values / np.sqrt((values * values).mean(axis=1, keepdims=True))


def write_features(path: Path, side: int) -> None:
    """A store of drawn clips, the same ones for each grid."""
    rng = np.random.default_rng(0)
    looks, sounds = (patterns(rng, CATEGORIES, channels) for channels in (VISUAL, AUDIO))
    scenes, ambiences = (patterns(rng, 40, channels) for channels in (VISUAL, AUDIO))
    names = [split for split, count in SPLITS.items() for _ in range(count)]
    rows, clips = [], []
    for number, split in enumerate(names):
        start = int(rng.integers(5))
        row = Row(str(number), number % CATEGORIES, start, int(rng.integers(start + 3, 11)), split)
        scene = scenes[rng.integers(40, size=(SIDE, SIDE))] * rng.uniform(0.2, 0.8, (SIDE, SIDE, 1))
        ambience = ambiences[rng.integers(40)] * rng.uniform(0.1, 0.5)
        top, left = rng.integers(SIDE - 3, size=2)
        visual, audio = np.empty((SEGMENTS, SIDE, SIDE, VISUAL)), np.empty((SEGMENTS, AUDIO))
        for second in range(SEGMENTS):
            kinds = ((0.0, 1.0), (1.0, 0.0), (0.0, 0.0))
            look, sound = kinds[rng.integers(3)]
            if row.start <= second < row.end:
                look, sound = rng.uniform(0.35, 1.2, 2)
            grid = scene + NOISE[VISUAL] * rng.standard_normal(scene.shape)
            grid[top : top + 3, left : left + 3] += GAIN[VISUAL] * look * looks[row.category]
            noise = NOISE[AUDIO] * rng.standard_normal(AUDIO)
            visual[second] = grid.clip(min=0)
            audio[second] = ambience + GAIN[AUDIO] * sound * sounds[row.category] + noise
        maps = torch.from_numpy(visual).permute(0, 3, 1, 2)
        rows.append(row)
        clips.append((adaptive_avg_pool2d(maps, side).permute(0, 2, 3, 1), audio.clip(min=0)))
    categories = tuple(f"category {k}" for k in range(CATEGORIES))
    labels = segment_labels(Annotations(categories, tuple(rows)))
    create_store(
        path,
        ids=[row.id for row in rows],
        splits=names,
        labels=labels,
        tags=clip_tags(labels, len(categories)),
        categories=categories,
        visual_shape=(SEGMENTS, side, side, VISUAL),
        audio_shape=(SEGMENTS, AUDIO),
        provenance={"encoders": {}, "settings": {}},
    )
    with h5py.File(path, "r+") as store:
        for place, (visual_, audio_) in enumerate(clips):
            store["visual"][place], store["audio"][place] = visual_, audio_


def step(localizer: Localizer, batch: Batch) -> float:
    """CPU seconds of a clip, forward and backward."""
    start = time.process_time()
    out = localizer(batch.visual, batch.audio)
    torch.stack([*localizer.losses(out, batch).values()]).sum().backward()
    return (time.process_time() - start) / batch.clips


def measure_steps(report: Report, rounds: int | None) -> None:
    """Adds what a step of each way costs, beside the first."""
    localizers, batches = {}, {}
    for way in WAYS:
        sizes = Sizes(VISUAL, AUDIO, CATEGORIES, way.side**2)
        localizers[way] = build("cace_net", sizes, width=WIDTH // way.narrower).train()
        localizers[way].start_epoch(1.0)
        clips = localizers[way].clips_at_once
        visual = torch.rand(clips, SEGMENTS, way.side, way.side, VISUAL)
        audio = torch.rand(clips, SEGMENTS, AUDIO)
        labels = torch.randint(CATEGORIES + 1, (clips, SEGMENTS))
        batches[way] = Batch(visual, audio, labels, clips, clips)
        step(localizers[way], batches[way])  # warm
    fastest: dict[Way, float] = {}
    for _ in report.rounds(rounds, share=1 / 3):
        for way in WAYS:
            once = step(localizers[way], batches[way])
            fastest[way] = min(once, fastest.get(way, once))
        for way, seconds in fastest.items():
            report.add(f"a step, {way}", "CPU s a clip", seconds, fastest[WAYS[0]])


def measure_accuracy(report: Report, epochs: int) -> None:
    """Adds the test accuracy of each way and seed, at the best epoch on val, and CPU seconds.

    The cheapest way comes first.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for side in {way.side for way in WAYS}:
            report.progress(f"drawing features of {side} x {side}")
            write_features(folder / f"{side}.h5", side)
        for seed, way in itertools.product(SEEDS, reversed(WAYS)):
            store, schedule = folder / f"{way.side}.h5", SCHEDULE._replace(epochs=epochs)
            train(report, str(way), store, WIDTH // way.narrower, schedule, seed)


def measure_store(report: Report, store: Path) -> None:
    """Adds the same of each schedule on the features of a store, in a precision that is fast."""
    for seed, (width, schedule) in itertools.product(SEEDS, SCHEDULES):
        if schedule.precision == "bfloat16" and not has_bfloat16(torch.device("cpu")):
            continue
        what = f"width {width}, {schedule.epochs} epochs, batches of {schedule.batch_size}, "
        train(report, what + schedule.precision, store, width, schedule, seed)


def train(
    report: Report, what: str, store: Path, width: int, schedule: Schedule, seed: int
) -> None:
    """Trains one localizer; adds its test accuracy at the best epoch on val, and CPU seconds."""
    report.progress(f"training, {what}, seed {seed}")
    before = time.process_time()
    with tempfile.TemporaryDirectory() as temporary:
        curves: Any = fit(
            "cace_net",
            {"width": width},
            FeatureStore(store),
            Path(temporary) / "localizer",
            state=Path(temporary) / "state.pt",
            seed=seed,
            schedule=schedule,
            device=torch.device("cpu"),
            source="folder",
        )
    seconds = time.process_time() - before
    best = int(np.argmax([epoch["val_accuracy"] for epoch in curves.train]))
    accuracy = 100 * curves.test[best]["test_accuracy"]
    report.add(f"accuracy on test, {what}, seed {seed}", "%", accuracy)
    report.add(f"training, {what}, seed {seed}", "CPU s", seconds)


def main() -> None:
    """Prints all figures."""
    arguments = parser(__doc__)
    arguments.add_argument("--accuracy", action="store_true", help="also train on drawn features")
    arguments.add_argument("--epochs", type=int, default=24, help="of the training")
    arguments.add_argument("--store", type=Path, metavar="FILE", help="train on these features")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_freed_memory()
    if options.store:
        measure_store(Report("folder_store", __doc__), options.store)
        return
    report = Report("folder", __doc__)
    measure_steps(report, options.rounds)
    if options.accuracy:
        measure_accuracy(report, options.epochs)


if __name__ == "__main__":
    main()
