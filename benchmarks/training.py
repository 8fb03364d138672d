"""Training the localizer, against the same arithmetic written plainly.

Theirs is the published way: tests/reference.py, which computes every ablation's arithmetic whatever
the settings, in float64 (or float32, for comparison), and reads each sample from HDF5 at random.
Ours is what `stages.train` runs. Both at batch 64 and VGG dimensions, one thread, forward and
backward, without dropout, which the reference leaves out; each in a separate process, in turn.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measuring import Report, answer_steps, parser, steps_in_turns

BATCH = 64
GRID, VISUAL, AUDIO, CATEGORIES = (7, 7), 512, 128, 28


def write_features(path: Path) -> None:
    """A store of one batch, its features drawn at random."""
    import h5py
    import numpy as np

    rng = np.random.default_rng(0)
    labels = np.repeat(rng.integers(CATEGORIES, size=(BATCH + 2, 1)), 10, axis=1)
    labels[::2, :3] = CATEGORIES
    with h5py.File(path, "w") as file:
        file["visual"] = rng.random((BATCH + 2, 10, *GRID, VISUAL), "f4").astype("f2")
        file["audio"] = rng.random((BATCH + 2, 10, AUDIO), "f4").astype("f2")
        file["labels"] = labels
        file["tags"] = labels[:, -1]
        file["id"] = [str(k) for k in range(BATCH + 2)]
        file["split"] = ["train"] * BATCH + ["val", "test"]
        file["categories"] = [str(k) for k in range(CATEGORIES)]
        file.attrs["provenance"] = json.dumps({})


def plain_step(store: Path, guide: Any, precision: str) -> Callable[[], Any]:
    """One batch, forward and backward, by the reference; the step returns the event scores."""
    import h5py
    import torch

    from tests import fill, reference

    dtype = getattr(torch, precision)
    params = {key: value.to(dtype).requires_grad_() for key, value in fill.params(guide).items()}

    def step() -> Any:
        with h5py.File(store) as file:
            parts = [
                [torch.from_numpy(file[name][k]) for k in torch.randperm(BATCH).sort().values]
                for name in ("visual", "audio", "labels")
            ]
        visual, audio, labels = (torch.stack(part) for part in parts)
        noise = torch.zeros(10, BATCH, 256, dtype=dtype)
        out = reference.forward(
            params, visual.to(dtype), audio.to(dtype), guide=guide, switch=True, noise=noise
        )
        one_hot = torch.nn.functional.one_hot(labels, CATEGORIES + 1).to(dtype)
        # At its temperature of 0.01 the contrast of the reference overflows in float32.
        torch.stack([*reference.losses(out, one_hot, temperature=0.2).values()]).sum().backward()
        for value in params.values():
            value.grad = None
        return out.event_scores.detach()

    return step


def our_step(store: Path, guide: str, precision: Any) -> Callable[[], Any]:
    """The same by the localizer, as an epoch of training computes it, part by part."""
    import torch

    from cace.features.batches import Split
    from cace.features.store import FeatureStore
    from cace.localizers import load_checkpoint
    from cace.training.loop import in_precision
    from tests import fill

    guidance: Any = {"Co-Guide": "both", "Audio-Guide": "audio"}[guide]
    weights = store.with_name(f"{guide}-{precision}.pth")
    torch.save({key: value.float() for key, value in fill.params(guide).items()}, weights)
    localizer = load_checkpoint(weights, "cace_net", guidance=guidance, bece_tau=0.2)
    device = torch.device("cpu")
    split = Split(FeatureStore(store), "train", device)

    def step() -> Any:
        scores = []
        every = torch.arange(BATCH)
        for places in every.split(localizer.clips_at_once):
            batch = split.batch(places, every)
            noise = torch.zeros(len(places), 10, 256)
            with in_precision(precision, device):
                out = localizer(batch.visual, batch.audio, noise=noise)
            torch.stack([*localizer.losses(out, batch).values()]).sum().backward()
            scores.append(out.class_logits.detach().squeeze(1))
        localizer.zero_grad()
        return torch.cat(scores)

    return step


def measure(way: str, guide: str, precision: str, store: Path) -> None:
    """In a separate process: one step for each line of input, with its CPU seconds and the peak."""
    import torch

    torch.set_num_threads(1)
    step = {"plain": plain_step, "ours": our_step}[way](store, guide, precision)
    torch.save(answer_steps(step), store.with_name(f"{way}-{guide}-{precision}.pt"))


PLAIN = ("plain", "Co-Guide", "float64")
WAYS: list[tuple[str, ...]] = [
    PLAIN,
    ("plain", "Co-Guide", "float32"),
    ("ours", "Co-Guide", "float32"),
    ("ours", "Co-Guide", "bfloat16"),
    ("plain", "Audio-Guide", "float64"),
    ("ours", "Audio-Guide", "float32"),
]
PRECISIONS = {"float32": "at most 2e-6", "bfloat16": None}  # and the goal for the logits
# What is reported, of which of our ways, compared with which plain one, and the goal.
COMPARED = (
    ("bfloat16, against plain float64", WAYS[3], PLAIN, "at most 1/5"),
    ("float32, against plain float64", WAYS[2], PLAIN, None),
    ("float32, against plain float32", WAYS[2], WAYS[1], "at most 0.95"),
    ("float32 with sound alone guiding, against plain float64", WAYS[5], WAYS[4], None),
)


def main() -> None:
    """Prints all figures."""
    import torch

    from cace.system.device import has_bfloat16

    options = parser(__doc__).parse_args()
    report = Report("training", __doc__)
    step = f"a batch of {BATCH}, forward and backward"
    ways = (
        WAYS
        if has_bfloat16(torch.device("cpu"))
        else [way for way in WAYS if "bfloat16" not in way]
    )
    if ways != WAYS:
        report.progress("this processor has no bfloat16: it is left out")
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "features.h5"
        write_features(store)
        rounds = report.rounds(options.rounds)
        for found in steps_in_turns("benchmarks.training", ways, store, rounds, report):
            for what, ours, theirs, goal in COMPARED:
                if ours in found and theirs in found:
                    seconds = found[ours]["seconds"], found[theirs]["seconds"]
                    report.add(f"{step}: {what}", "CPU s", *seconds, goal)
            for precision in PRECISIONS:
                if (ours := ("ours", "Co-Guide", precision)) in found:
                    peaks = found[ours]["peak"], found[PLAIN]["peak"]
                    report.add(f"its peak memory in {precision}", "GB", *peaks, "1.5 GB")
        scores = {way: torch.load(Path(folder) / f"{'-'.join(way)}.pt").double() for way in ways}
    for precision, goal in PRECISIONS.items():
        if (ours := ("ours", "Co-Guide", precision)) in scores:
            difference = (scores[ours] - scores[PLAIN]).abs().max().item()
            what = f"class logits in {precision}: largest difference from float64"
            report.add(what, "", difference, bar=goal)


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in ("plain", "ours"):
        way, guide, precision, path = sys.argv[1:]
        measure(way, guide, precision, Path(path))
    else:
        main()
