"""How well methods learn features that are drawn like AVE's; takes hours with all methods.

The events' categories and seconds are AVE's, from its annotations and splits, which are downloaded;
the features are drawn. A clip has patches of background textures, and an ambience. Where its event
is visible, the look of its category is added to a part of the grid that moves; where it is audible,
its sound is added to the ambience. Each category has two looks and two sounds, and resembles one
other category. In its event's seconds a clip has both, sometimes weakly. In the others it has the
look or the sound alone, or those of another category, or nothing.

Each method trains with the settings of its paper, except for epochs and batch size. With --weak, it
learns from the tags of the clips (docs/weak.md); --features easy is the set for that, with clips
that have no event.
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
from cace.evaluation.metrics import never_background
from cace.evaluation.predict import load_for
from cace.evaluation.protocols import evaluate
from cace.features.batches import Split
from cace.features.store import BACKGROUND, FeatureStore, create_store
from cace.settings import (
    LOCALIZERS,
    Params,
    TrainParams,
    changed,
    load_params,
    method_params,
)
from cace.system.device import choose_device
from cace.system.downloads import fetch
from cace.system.errors import run
from cace.system.files import read_text, read_yaml
from cace.training.runs import Job, train_one

VISUAL, AUDIO = 512, 128
SEED = 0  # of the features
LAST = 5  # epochs at the end, whose test scores are averaged
UNGUIDED = "cace_net_unguided"  # CACE-Net without co-guidance
METHODS = (*LOCALIZERS, UNGUIDED)
SCORES = {
    "accuracy": "test accuracy, epoch chosen on val",
    "last": f"mean of the last {LAST}",
    "category_accuracy": "category accuracy",
    "background_recall": "background recall",
    "background_precision": "background precision",
}
# Of the released code, on the hard set.
BARS = {("cace_net", "last"): "81.1 ± 0.7", (UNGUIDED, "last"): "78.8 ± 1.0"}

TEXTURES = 40  # of the background, in each modality
DENSITY = {VISUAL: 0.2, AUDIO: 0.35}  # share of a pattern's channels that are not zero
LIKENESS = 0.7  # of two categories that resemble each other
VISUAL_NOISE, AUDIO_NOISE = 0.6, 0.36  # standard deviations
WEAK, WEAK_SHARE = 0.35, 0.2  # strength of a weak look or sound, and how often one is weak
SOUND_ALONE, LOOK_ALONE, OTHER = 0.3, 0.3, 0.2  # shares of the seconds without event


class Drawn(NamedTuple):
    """A set of features."""

    clips: dict[str, int]  # of each split
    without_event: int  # clips of the split that weak supervision adds to train
    grid: int
    visual_gain: float  # of events
    audio_gain: float


SETS = {
    "hard": Drawn({"train": 400, "val": 100, "test": 100}, 0, 4, 0.55, 0.4),
    "easy": Drawn({"train": 500, "val": 100, "test": 150}, 30, 3, 0.8, 0.6),
}


class Strengths(NamedTuple):
    """How strong the looks and sounds are in a second: of the clip's category, and of another."""

    look: float = 0.0
    sound: float = 0.0
    other_look: float = 0.0
    other_sound: float = 0.0


class World:
    """The looks and sounds of all categories, and the textures of backgrounds."""

    def __init__(self, drawn: Drawn) -> None:
        self.drawn = drawn
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
        rng, side = np.random.default_rng([SEED, 777, number]), self.drawn.grid
        look, sound = (mixed(rng, kinds, row.category) for kinds in (self.looks, self.sounds))
        scene = self.scenes[rng.integers(0, TEXTURES, (side, side))]
        scene = scene * rng.uniform(0.2, 0.8, (side, side, 1))
        ambience = self.ambiences[rng.integers(0, TEXTURES)] * rng.uniform(0.1, 0.5)
        size = rng.integers(side // 3, side // 2 + 2, 2)  # of the part that shows the event
        place = np.array([rng.integers(0, side - extent + 1) for extent in size])
        other = int((row.category + rng.integers(1, len(AVE_CATEGORIES))) % len(AVE_CATEGORIES))
        visual, audio = np.empty((SEGMENTS, side, side, VISUAL)), np.empty((SEGMENTS, AUDIO))
        for second in range(SEGMENTS):
            steps = [rng.integers(-1, 2) for _ in place]
            top, left = place = np.clip(place + steps, 0, side - size)
            strong = strengths(rng, row.start <= second < row.end)
            grid = scene + VISUAL_NOISE * rng.standard_normal((side, side, VISUAL))
            shown = strong.look * look + strong.other_look * self.looks[0][other]
            grid[top : top + size[0], left : left + size[1]] += self.drawn.visual_gain * shown
            heard = strong.sound * sound + strong.other_sound * self.sounds[0][other]
            noise = AUDIO_NOISE * rng.standard_normal(AUDIO)
            visual[second] = np.maximum(0, grid)
            audio[second] = np.maximum(0, ambience + self.drawn.audio_gain * heard + noise)
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


def write_features(path: Path, drawn: Drawn) -> None:
    """A store of some of AVE's clips, with drawn features."""
    names = ("Annotations.txt", *(f"{split}_order.h5" for split in drawn.clips))
    text, *orders = fetch([file for file in released.FILES if file.name in names])
    lines = read_lines(text, [])
    rng = np.random.default_rng([SEED, 99])
    rows: dict[int, Row] = {}
    for order, (split, count) in zip(orders, drawn.clips.items(), strict=True):
        more = drawn.without_event if split == "train" else 0
        for number in rng.permutation(read_data(order, ORDER_KEY))[: count + more].tolist():
            line = lines[number]
            category = AVE_CATEGORIES.index(line.category)
            row = Row(f"{number}-{line.id}", category, line.start, line.end, split)
            if sum(known.split == split for known in rows.values()) >= count:
                row = row._replace(start=0, end=0, split=BACKGROUND)
            rows[number] = row
    labels = segment_labels(Annotations(AVE_CATEGORIES, tuple(rows.values())))
    create_store(
        path,
        ids=[row.id for row in rows.values()],
        splits=[row.split for row in rows.values()],
        labels=labels,
        tags=clip_tags(labels, len(AVE_CATEGORIES)),
        categories=AVE_CATEGORIES,
        visual_shape=(SEGMENTS, drawn.grid, drawn.grid, VISUAL),
        audio_shape=(SEGMENTS, AUDIO),
        provenance={},
    )
    world = World(drawn)
    with h5py.File(path, "r+") as store:
        for place, (number, row) in enumerate(rows.items()):
            store["visual"][place], store["audio"][place] = world.clip(number, row)


def settings(method: str, changes: dict[str, Any]) -> Params:
    """Those of the method's paper.

    changes: replace some of the sections `train` and `weak`, and `supervision`.
    """
    file = SETTINGS / f"{'cace_net' if method == UNGUIDED else method}.yaml"
    published = read_yaml(read_text(file), file)
    del published["few_clips"]
    published["train"] |= {**changes["train"], "narrower": 1}  # whatever the current profile says
    published |= {"supervision": changes["supervision"], "weak": changes["weak"]}
    if method == UNGUIDED:
        published["guidance"]["mode"] = "none"
    return changed(load_params(), published, where=str(file))


def measure(method: str, store: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """Scores over seeds, in percent; in a separate process, for its time and memory."""
    params, before, work = settings(method, changes), cpu_seconds(), store.parent / method
    test = Split(FeatureStore(store), "test", choose_device())
    found: dict[str, list[float]] = {name: [] for name in SCORES}
    for seed in params.train.seeds:
        job = Job(f"seed-{seed}", seed)
        curves = train_one(job, store, work, params, choose_device())
        best = load_for(test, work / "localizer" / job.name / "best.pt")
        scores = evaluate(best, test, params.evaluate.threshold)[0]._asdict()
        last = pd.DataFrame(curves.test)["test_accuracy"].tail(LAST).mean()
        for name, values in found.items():
            values.append(100 * float(last if name == "last" else scores[name]))
        shown = ", ".join(f"{name} {values[-1]:.1f}" for name, values in found.items())
        print(f"  seed {seed}: {shown}", file=sys.stderr, flush=True)
    bound = 100 * never_background(test.labels, test.store.background)
    seconds, peak = (cpu_seconds() - before) / len(params.train.seeds), peak_megabytes() / 1000
    return {**found, "bound": bound, "seconds": seconds, "peak": peak}


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
    parser.add_argument("--features", choices=SETS, default="hard", help="the set that is drawn")
    parser.add_argument("--weak", action="store_true", help="learn from the tags of clips alone")
    parser.add_argument("--mismatch", type=float, default=1.0, help="weak.mismatch")
    parser.add_argument("--top", type=float, default=0.7, help="weak.top")
    options = vars(parser.parse_args())
    chosen, weak = options.pop("methods"), options.pop("weak")
    methods = chosen or [
        name for name in METHODS if not weak or name == UNGUIDED or method_params(name).weak_forms
    ]
    drawn = SETS[options["features"]]
    report = Report("ave_like", __doc__)
    report.notes = {name: value for name, value in options.items() if value is not None}
    report.notes["supervision"] = "weak" if weak else "full"
    changes = {
        "train": {k: v for k, v in report.notes.items() if k in TrainParams.model_fields},
        "supervision": report.notes["supervision"],
        "weak": {"mismatch": options["mismatch"], "top": options["top"]},
    }
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "features.h5"
        report.progress(f"drawing {sum(drawn.clips.values()) + drawn.without_event} clips")
        write_features(store, drawn)
        for method in methods:
            report.progress(f"{method}, seeds {options['seeds']}")
            found: Any = alone("benchmarks.ave_like", "--part", method, store, json.dumps(changes))
            seconds, peak = found["seconds"], found["peak"]
            scores = {what: over_seeds(found[name]) for name, what in SCORES.items()}
            rows.append({"method": method, **scores, "CPU s a seed": seconds, "peak GB": peak})
            for name, what in SCORES.items():
                hard = options["features"] == "hard" and not weak
                bar = BARS.get((method, name)) if hard else None
                report.add(f"{method}: {what}", "%", statistics.mean(found[name]), bar=bar)
            report.add(f"{method}: a seed", "CPU s", seconds)
            report.add(f"{method}: peak memory", "GB", peak)
    print(f"right tag of every clip, never background: {found['bound']:.1f} %")
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".3g"))


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] == "--part":
        part, path, replaced = sys.argv[2:]
        print(json.dumps(measure(part, Path(path), json.loads(replaced))))
    else:
        run(main)
