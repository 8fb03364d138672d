"""The encoders on one thread: folded, compiled and in bfloat16, compared with float32 as it is.

CPU seconds of a clip: 40 frames of 224 pixels, or ten seconds of sound. Random weights cost the
same as trained ones. The ways take turns, and the fastest run of each counts. `--compile` adds
torch.compile with frozen weights, which takes minutes and needs a C++ compiler, and says from how
many clips it pays.
"""

import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measuring import Report, children_seconds, cpu_seconds, parser
from cace.conventions import SAMPLE_RATE, SEGMENTS
from cace.encoders.audio import audio_encoder
from cace.encoders.folding import fold_norms
from cace.encoders.visual import visual_encoder
from cace.system.device import has_bfloat16, keep_freed_memory

FRAMES, AT_ONCE, SIDE = 40, 8, 224  # frames of a clip, and how many of them are measured
Way = Callable[[Tensor], Tensor]


def networks() -> dict[str, tuple[nn.Module, Tensor, float]]:
    """Each encoder with its input, and the share of a clip that this is."""
    frames = torch.randint(256, (AT_ONCE, SIDE, SIDE, 3), dtype=torch.uint8)
    sound = torch.rand(SEGMENTS, SAMPLE_RATE) - 0.5
    return {
        "resnet50": (visual_encoder("resnet50", "none"), frames, AT_ONCE / FRAMES),
        "efficientnet_lite0": (
            visual_encoder("efficientnet_lite0", "imagenet"), frames, AT_ONCE / FRAMES,
        ),
        "cnn14": (audio_encoder("cnn14", "none"), sound, 1.0),
    }  # fmt: skip


def ways_of(network: nn.Module, example: Tensor) -> dict[str, Way]:
    """The ways to compute it that this processor can do fast."""
    folded = copy.deepcopy(network)
    fold_norms(folded, example[:1])
    ways: dict[str, Way] = {"as it is": network, "folded": folded}
    if has_bfloat16(torch.device("cpu")):
        for name, one in (("bfloat16", network), ("folded, bfloat16", folded)):
            ways[name] = torch.autocast("cpu", torch.bfloat16)(one.forward)
    return ways


def compiled(network: nn.Module, example: Tensor) -> tuple[Way, float]:
    """The compiled network, and the CPU seconds that compiling took."""
    import torch._inductor.config

    torch._dynamo.reset()
    found: Any = None

    def compile_() -> None:
        nonlocal found
        with torch._inductor.config.patch(freezing=True, compile_threads=1):
            found = torch.compile(copy.deepcopy(network), dynamic=False)
            found(example)

    before = cpu_seconds()
    children = children_seconds(compile_)
    return found, cpu_seconds() - before + children


def seconds_of(way: Way, example: Tensor) -> float:
    """CPU seconds of one run."""
    start = time.process_time()
    way(example)
    return time.process_time() - start


@torch.inference_mode()
def main() -> None:
    """Prints the figures, one encoder after the other."""
    arguments = parser(__doc__)
    arguments.add_argument("--compile", action="store_true", help="also compile them")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_freed_memory()
    report = Report("encoders", __doc__)
    all_networks = networks()
    for place, (name, (network, example, share)) in enumerate(all_networks.items()):
        ways, compiling = ways_of(network, example), 0.0
        if options.compile:
            report.progress(f"{name}: compiling")
            ways["compiled"], compiling = compiled(network, example)
            report.add(f"{name}: compiling", "CPU s", compiling)
        features = {way: work(example).double().flatten() for way, work in ways.items()}
        for way in [*ways][1:]:
            cosine = nn.functional.cosine_similarity(features["as it is"], features[way], dim=0)
            report.add(f"{name}: {way}, cosine to float32", "", cosine.item(), bar=">= 0.999")
        seconds: dict[str, float] = {}
        for _ in report.rounds(options.rounds, share=1 / (len(all_networks) - place)):
            for way, work in ways.items():
                once = seconds_of(work, example) / share
                seconds[way] = min(once, seconds.get(way, once))
            plain = seconds["as it is"]
            for way in [*ways][1:]:
                report.add(f"{name}: {way}", "CPU s a clip", seconds[way], plain)
            if options.compile and (saved := seconds["folded"] - seconds["compiled"]) > 0:
                what = f"{name}: compiling pays, beside folding, from"
                report.add(what, "clips", compiling / saved)


if __name__ == "__main__":
    main()
