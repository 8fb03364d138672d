"""The training step of every method, and of some beside the same arithmetic written plainly.

Plain is that of tests/reference.py and tests/reference_others.py. All in float32 at batch 64 and
VGG dimensions, one thread, forward and backward, without dropout, which plain leaves out; each in a
separate process, in turn.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measuring import Report, answer_steps, parser, steps_in_turns
from benchmarks.training import AUDIO, BATCH, CATEGORIES, GRID, VISUAL, write_features
from cace.settings import LOCALIZERS

BARS = {"cace_net": "at most 0.62", "cmbs": "at most 0.8", "cmran": "at most 0.8"}
PLAIN = (*BARS, "psp")
TIME = {name: 5 if name in PLAIN else 1 for name in LOCALIZERS}  # parts of it, for their rounds


def plain_step(name: str, visual: Any, audio: Any, labels: Any) -> Callable[[], Any]:
    """One batch, forward and backward."""
    import torch

    from tests import fill, reference, reference_others

    keys = {"cace_net": "Co-Guide"}.get(name, name)
    params = {
        key: fill.fill_param(key, shape).float().requires_grad_()
        for key, shape in fill.state_dict_shapes(keys).items()
    }
    one_hot = torch.nn.functional.one_hot(labels, CATEGORIES + 1).float()

    def losses() -> dict[str, Any]:
        if name in ("cace_net", "cmbs"):
            contrast = name == "cace_net"
            noise = torch.zeros(10, BATCH, 256)
            guide: Any = "Co-Guide" if contrast else "CMBS"
            out = reference.forward(
                params, visual, audio, guide=guide, switch=contrast, noise=noise
            )
            # At its temperature of 0.01 the contrast of the reference overflows in float32.
            terms = reference.losses(out, one_hot, temperature=0.2)
            return terms if contrast else {k: v for k, v in terms.items() if k != "contrastive"}
        found = getattr(reference_others, name)(params, visual, audio)
        terms = getattr(reference_others, f"{name}_losses")(found, one_hot)
        return dict(terms)

    def step() -> None:
        torch.stack([*losses().values()]).sum().backward()
        for value in params.values():
            value.grad = None

    return step


def our_step(name: str, store: Path) -> Callable[[], Any]:
    """The same, as an epoch of training computes it, part by part."""
    import torch

    from cace.features.batches import Split
    from cace.features.store import FeatureStore
    from cace.localizers.parts.checkpoints import build
    from cace.localizers.parts.protocol import Sizes

    localizer = build(name, Sizes(VISUAL, AUDIO, CATEGORIES, GRID[0] * GRID[1]))
    localizer.start_epoch(1.0)
    for layer in localizer.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
        elif isinstance(layer, torch.nn.MultiheadAttention):
            layer.dropout = 0.0
    split = Split(FeatureStore(store), "train", torch.device("cpu"))

    def step() -> None:
        every = torch.arange(BATCH)
        for places in every.split(localizer.clips_at_once):
            batch = split.batch(places, every)
            out = localizer(batch.visual, batch.audio)
            torch.stack([*localizer.losses(out, batch).values()]).sum().backward()
        localizer.zero_grad()

    return step


def measure(way: str, name: str, store: Path) -> None:
    """In a separate process: one step for each line of input."""
    import torch

    from cace.features.batches import Split
    from cace.features.store import FeatureStore

    torch.set_num_threads(1)
    if way == "ours":
        answer_steps(our_step(name, store))
        return
    every = torch.arange(BATCH)
    batch = Split(FeatureStore(store), "train", torch.device("cpu")).batch(every)
    answer_steps(plain_step(name, batch.visual, batch.audio, batch.labels))


def main() -> None:
    """Prints all figures, one method after the other."""
    options = parser(__doc__).parse_args()
    report = Report("methods", __doc__)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "features.h5"
        write_features(store)
        for place, name in enumerate(LOCALIZERS):
            ways: list[tuple[str, ...]] = [("ours", name)]
            ways += [("plain", name)] if name in PLAIN else []
            share = TIME[name] / sum([*TIME.values()][place:])
            rounds = report.rounds(options.rounds, share)
            for found in steps_in_turns("benchmarks.methods", ways, store, rounds, report):
                ours, plain = found["ours", name], found.get(("plain", name), {})
                step = f"{name}: a batch of {BATCH}, forward and backward"
                seconds = ours["seconds"], plain.get("seconds")
                report.add(step, "CPU s", *seconds, BARS.get(name))
                peaks = ours["peak"], plain.get("peak")
                report.add(f"{name}: peak memory", "GB", *peaks, "1.5 GB")


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in ("plain", "ours"):
        way, name, path = sys.argv[1:]
        measure(way, name, Path(path))
    else:
        main()
