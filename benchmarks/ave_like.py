"""How well methods learn features that are drawn like AVE's; takes hours with all methods.

The events' categories and seconds are AVE's, from its annotations and splits, which are downloaded;
the features are drawn. A clip has patches of background textures, and an ambience. Where its event
is visible, the look of its category is added to a part of the grid that moves; where it is audible,
its sound is added to the ambience. Each category has two looks and two sounds, and resembles one
other category. In its event's seconds a clip has both, sometimes weakly. In the others it has the
look or the sound alone, or those of another category, or nothing.

Each method trains with the settings of its paper, except for epochs and batch size.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pandas as pd
from jaxtyping import Float

from baselines.train import SETTINGS
from benchmarks.measuring import Report, alone, cpu_seconds, peak_megabytes
from cace.conventions import SEGMENTS
from cace.data.annotations import (
    AVE_CATEGORIES,
    Annotations,
    Row,
    clip_tags,
    read_lines,
    segment_labels,
)
from cace.data.sources import released
from cace.data.sources.released_labels import ORDER_KEY, read_data
from cace.features.store import create_store
from cace.settings import LOCALIZERS, Params, changed, load_params
from cace.system.device import choose_device
from cace.system.downloads import fetch
from cace.system.errors import run
from cace.system.files import read_text, read_yaml
from cace.training.runs import Job, train_one

CLIPS = {"train": 400, "val": 100, "test": 100}
GRID, VISUAL, AUDIO = 4, 512, 128
SEED = 0  # of the features
LAST = 5  # epochs at the end, whose test scores are averaged
UNGUIDED = "cace_net_unguided"  # CACE-Net without co-guidance
METHODS = (*LOCALIZERS, UNGUIDED)
ACCURACIES = {"honest": "test accuracy, epoch chosen on val", "last": f"mean of the last {LAST}"}
BARS = {("cace_net", "last"): "81.1 ± 0.7", (UNGUIDED, "last"): "78.8 ± 1.0"}  # the released code

TEXTURES = 40  # of the background, in each modality
DENSITY = {VISUAL: 0.2, AUDIO: 0.35}  # share of a pattern's channels that are not zero
LIKENESS = 0.7  # of two categories that resemble each other
VISUAL_GAIN, AUDIO_GAIN = 0.55, 0.4  # of events
VISUAL_NOISE, AUDIO_NOISE = 0.6, 0.36  # standard deviations
WEAK, WEAK_SHARE = 0.35, 0.2  # strength of a weak look or sound, and how often one is weak
SOUND_ALONE, LOOK_ALONE, OTHER = 0.3, 0.3, 0.2  # shares of the seconds without event


class Strengths(NamedTuple):
    """How strong the looks and sounds are in a second: of the clip's category, and of another."""

    look: float = 0.0
    sound: float = 0.0
    other_look: float = 0.0
    other_sound: float = 0.0


class World:
    """The looks and sounds of all categories, and the textures of backgrounds."""

    def __init__(self) -> None:
        rng = np.random.default_rng([SEED, 12345])
        count = len(AVE_CATEGORIES)
        self.looks = [in_pairs(patterns(rng, count, VISUAL)) for _ in range(2)]
        self.sounds = [in_pairs(patterns(rng, count, AUDIO)) for _ in range(2)]
        self.scenes = patterns(rng, TEXTURES, VISUAL)
        self.ambiences = patterns(rng, TEXTURES, AUDIO)

    def clip(
        self, number: int, row: Row
    ) -> tuple[Float[np.ndarray, "T H W V"], Float[np.ndarray, "T A"]]:
        """Its features, which depend on nothing but these two.

        number: of the clip in AVE.
        """
        rng = np.random.default_rng([SEED, 777, number])
        look, sound = (mixed(rng, kinds, row.category) for kinds in (self.looks, self.sounds))
        scene = self.scenes[rng.integers(0, TEXTURES, (GRID, GRID))]
        scene = scene * rng.uniform(0.2, 0.8, (GRID, GRID, 1))
        ambience = self.ambiences[rng.integers(0, TEXTURES)] * rng.uniform(0.1, 0.5)
        size = rng.integers(GRID // 3, GRID // 2 + 2, 2)  # of the part that shows the event
        place = np.array([rng.integers(0, GRID - side + 1) for side in size])
        other = int((row.category + rng.integers(1, len(AVE_CATEGORIES))) % len(AVE_CATEGORIES))
        visual, audio = np.empty((SEGMENTS, GRID, GRID, VISUAL)), np.empty((SEGMENTS, AUDIO))
        for second in range(SEGMENTS):
            steps = [rng.integers(-1, 2) for _ in place]
            top, left = place = np.clip(place + steps, 0, GRID - size)
            strong = strengths(rng, row.start <= second < row.end)
            grid = scene + VISUAL_NOISE * rng.standard_normal((GRID, GRID, VISUAL))
            shown = strong.look * look + strong.other_look * self.looks[0][other]
            grid[top : top + size[0], left : left + size[1]] += VISUAL_GAIN * shown
            heard = strong.sound * sound + strong.other_sound * self.sounds[0][other]
            noise = AUDIO_NOISE * rng.standard_normal(AUDIO)
            visual[second] = np.maximum(0, grid)
            audio[second] = np.maximum(0, ambience + AUDIO_GAIN * heard + noise)
        return visual, audio


def patterns(rng: np.random.Generator, count: int, channels: int) -> Float[np.ndarray, "N D"]:
    """Sparse and not negative, as after a ReLU; their mean square is 1."""
    values = rng.gamma(1.0, 1.0, (count, channels))
    values *= rng.random((count, channels)) < DENSITY[channels]
    return scaled(values)


def in_pairs(one: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    """The same patterns, after each even one and its follower have come closer."""
    middle = one.reshape(-1, 2, one.shape[-1]).mean(axis=1).repeat(2, axis=0)
    return scaled((1 - LIKENESS) * one + LIKENESS * middle)


def scaled(values: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    return values / np.sqrt((values * values).mean(axis=1, keepdims=True))


def mixed(
    rng: np.random.Generator, kinds: list[Float[np.ndarray, "N D"]], category: int
) -> Float[np.ndarray, " D"]:
    """A mixture of a category's two patterns."""
    share = rng.random()
    pattern = share * kinds[0][category] + (1 - share) * kinds[1][category]
    return pattern * rng.uniform(0.7, 1.3)


def strengths(rng: np.random.Generator, has_event: bool) -> Strengths:
    """Of one second."""

    def strong() -> float:
        return rng.uniform(0.8, 1.2)

    if has_event:
        return Strengths(*(WEAK if rng.random() < WEAK_SHARE else strong() for _ in range(2)))
    chance = rng.random()
    if chance < SOUND_ALONE:
        return Strengths(sound=strong())
    if chance < SOUND_ALONE + LOOK_ALONE:
        return Strengths(look=strong())
    if chance < SOUND_ALONE + LOOK_ALONE + OTHER:
        kind = rng.integers(0, 3)
        if kind == 0:
            return Strengths(other_sound=strong())
        if kind == 1:
            return Strengths(other_look=strong())
        return Strengths(look=strong(), other_sound=strong())
    return Strengths()


def write_features(path: Path) -> None:
    """A store of some of AVE's clips, with drawn features."""
    names = ("Annotations.txt", *(f"{split}_order.h5" for split in CLIPS))
    text, *orders = fetch([file for file in released.FILES if file.name in names])
    lines = read_lines(text, [])
    rng = np.random.default_rng([SEED, 99])
    rows = {}
    for order, (split, count) in zip(orders, CLIPS.items(), strict=True):
        for number in rng.permutation(read_data(order, ORDER_KEY))[:count].tolist():
            line = lines[number]
            category = AVE_CATEGORIES.index(line.category)
            rows[number] = Row(f"{number}-{line.id}", category, line.start, line.end, split)
    labels = segment_labels(Annotations(AVE_CATEGORIES, tuple(rows.values())))
    create_store(
        path,
        ids=[row.id for row in rows.values()],
        splits=[row.split for row in rows.values()],
        labels=labels,
        tags=clip_tags(labels, len(AVE_CATEGORIES)),
        categories=AVE_CATEGORIES,
        visual_shape=(SEGMENTS, GRID, GRID, VISUAL),
        audio_shape=(SEGMENTS, AUDIO),
        provenance={},
    )
    world = World()
    with h5py.File(path, "r+") as store:
        for place, (number, row) in enumerate(rows.items()):
            store["visual"][place], store["audio"][place] = world.clip(number, row)


def settings(method: str, train: dict[str, Any]) -> Params:
    """Those of the method's paper.

    train: replaces some of section train.
    """
    file = SETTINGS / f"{'cace_net' if method == UNGUIDED else method}.yaml"
    published = read_yaml(read_text(file), file)
    del published["few_clips"]
    published["train"] |= train
    if method == UNGUIDED:
        published["guidance"]["mode"] = "none"
    return changed(load_params(), published, where=str(file))


def measure(method: str, store: Path, train: dict[str, Any]) -> dict[str, Any]:
    """Accuracies over seeds, in percent; in a separate process, for its time and memory."""
    params, before = settings(method, train), cpu_seconds()
    honest, last = [], []
    for seed in params.train.seeds:
        job = Job(f"seed-{seed}", seed)
        curves = train_one(job, store, store.parent / method, params, choose_device())
        on_val = pd.DataFrame(curves.train)["val_accuracy"]
        on_test = 100 * pd.DataFrame(curves.test)["test_accuracy"]
        honest.append(float(on_test[on_val.argmax()]))
        last.append(float(on_test.tail(LAST).mean()))
        print(f"  seed {seed}: {honest[-1]:.1f}, {last[-1]:.1f} %", file=sys.stderr, flush=True)
    return {
        "honest": honest,
        "last": last,
        "seconds": (cpu_seconds() - before) / len(honest),
        "peak": peak_megabytes() / 1000,
    }


def over_seeds(values: list[float]) -> str:
    """Mean and deviation, and each value."""
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation} ({', '.join(f'{v:.1f}' for v in values)})"


def main() -> None:
    """Prints the figures of each method as soon as it is trained, then a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=", ".join(METHODS))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=64, help="clips")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--milestones", type=int, nargs="*", help="instead of the method's; none: no decay"
    )
    options = vars(parser.parse_args())
    methods = options.pop("methods") or METHODS
    train = {name: value for name, value in options.items() if value is not None}
    report = Report("ave_like", __doc__)
    report.notes = train
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "features.h5"
        report.progress(f"drawing {sum(CLIPS.values())} clips")
        write_features(store)
        for method in methods:
            report.progress(f"{method}, seeds {options['seeds']}")
            found: Any = alone("benchmarks.ave_like", "--part", method, store, json.dumps(train))
            seconds, peak = found["seconds"], found["peak"]
            scores = {what: over_seeds(found[name]) for name, what in ACCURACIES.items()}
            rows.append({"method": method, **scores, "CPU s a seed": seconds, "peak GB": peak})
            for name, what in ACCURACIES.items():
                bar = BARS.get((method, name))
                report.add(f"{method}: {what}", "%", statistics.mean(found[name]), bar=bar)
            report.add(f"{method}: a seed", "CPU s", seconds)
            report.add(f"{method}: peak memory", "GB", peak)
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".3g"))


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] == "--part":
        part, path, replaced = sys.argv[2:]
        print(json.dumps(measure(part, Path(path), json.loads(replaced))))
    else:
        run(main)
