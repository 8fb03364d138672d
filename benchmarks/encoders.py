"""The encoders on one thread: folded, compiled and in bfloat16, compared with float32 as it is.

CPU seconds of a clip: 40 frames of 224 pixels, or ten seconds of sound; in fine-tuning ten frames,
there and back. Random weights cost the same as trained ones. The ways take turns, and the fastest
run of each counts. `--compile` adds torch.compile with frozen weights, which needs a C++ compiler,
and says from how many clips it pays.
"""

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from benchmarks.measuring import Report, children_seconds, cpu_seconds, parser
from cace.conventions import SAMPLE_RATE, SEGMENTS
from cace.encoders.audio import AudioEncoder, audio_encoder
from cace.encoders.folding import fold_norms
from cace.encoders.visual import VisualEncoder, visual_encoder
from cace.extraction.encode import round_weights
from cace.finetuning.contrast import clip_pictures
from cace.media.store import ClipStore
from cace.system.device import has_bfloat16, keep_freed_memory

FRAMES, AT_ONCE, SIDE = 40, 8, 224  # frames of a clip, and how many of them are measured
CPU = torch.device("cpu")
Way = Callable[[Tensor], Tensor]
BARS = {"resnet50": 0.35, "efficientnet_lite0": 0.5, "cnn14": 0.6}  # of the fastest way
TUNING_BAR = 0.5
TUNED = {"resnet50": "none", "efficientnet_lite0": "imagenet"}  # with their weights
TUNED_CLIPS = 2
MATRIX = 2048  # its side


def frames_of_a_photograph(count: int) -> Tensor:
    """Parts of the photograph that comes with matplotlib, at random places."""
    photograph = Image.open(Path(matplotlib.get_data_path()) / "sample_data/grace_hopper.jpg")
    right, bottom = (side - SIDE for side in photograph.size)
    places = torch.rand(count, 2) * torch.tensor([right, bottom])
    parts = [
        photograph.crop((left, top, left + SIDE, top + SIDE)) for left, top in places.int().tolist()
    ]
    return torch.from_numpy(np.stack([np.asarray(part.convert("RGB")) for part in parts]))


def networks() -> dict[str, tuple[nn.Module, Tensor, float]]:
    """Each encoder with its input, and the share of a clip that this is."""
    frames = frames_of_a_photograph(AT_ONCE)
    sound = torch.rand(SEGMENTS, SAMPLE_RATE) - 0.5
    return {
        "resnet50": (visual_encoder("resnet50", "none"), frames, AT_ONCE / FRAMES),
        "efficientnet_lite0": (
            visual_encoder("efficientnet_lite0", "imagenet"), frames, AT_ONCE / FRAMES,
        ),
        "cnn14": (audio_encoder("cnn14", "none"), sound, 1.0),
    }  # fmt: skip


def precisions() -> list[str]:
    """In which this processor computes fast."""
    return ["float32", *(["bfloat16"] if has_bfloat16(CPU) else [])]


def ways_of(network: nn.Module, example: Tensor) -> dict[str, Way]:
    """The ways to compute it that this processor can do fast."""
    folded = copy.deepcopy(network)
    fold_norms(folded, example[:1])
    ways: dict[str, Way] = {"as it is": network, "folded": folded}
    if "bfloat16" in precisions():
        for name, one in (("bfloat16", network), ("folded, bfloat16", folded)):
            if isinstance(one := copy.deepcopy(one), AudioEncoder):
                round_weights(one)
            ways[name] = torch.autocast("cpu", torch.bfloat16)(one.forward)
    return ways


class FewClips(ClipStore):
    """Clips that need no decoding."""

    def __init__(self) -> None:
        self.fps = 1
        self.pictures = frames_of_a_photograph(SEGMENTS).numpy()

    def frames(self, id_: str, which: Any = None) -> np.ndarray:
        """Those of every clip."""
        return self.pictures


def tuning_step(encoder: VisualEncoder, clips: ClipStore, precision: str) -> None:
    """The part of a fine-tuning step that depends on the encoder."""
    middle = np.zeros((TUNED_CLIPS, SEGMENTS), int)
    ids = [str(place) for place in range(TUNED_CLIPS)]
    with torch.inference_mode(False), torch.enable_grad():
        clip_pictures(encoder, clips, ids, middle, CPU, precision).square().sum().backward()
    for weight in encoder.parameters():
        weight.grad = None


def products(report: Report, rounds: int | None) -> None:
    """Adds the cost of a product of two large matrices: what the processor itself gains."""
    seconds: dict[str, float] = {}
    for _ in report.rounds(rounds or 5):
        for precision in precisions():
            a, b = torch.rand(2, MATRIX, MATRIX).to(getattr(torch, precision))
            once = seconds_of(a.matmul, b)
            seconds[precision] = min(once, seconds.get(precision, once))
    for precision, once in seconds.items():
        plain = None if precision == "float32" else seconds["float32"]
        report.add(f"a product of matrices: {precision}", "CPU s", once, plain)


def fine_tuning(report: Report, rounds: int | None) -> None:
    """Adds the cost of each visual encoder in both precisions."""
    for place, (name, weights) in enumerate(TUNED.items()):
        with torch.inference_mode(False):
            encoder, clips = visual_encoder(name, weights), FewClips()
        seconds: dict[str, float] = {}
        for _ in report.rounds(rounds, share=1 / (len(BARS) + len(TUNED) - place)):
            for precision in precisions():
                start = time.process_time()
                tuning_step(encoder, clips, precision)
                once = (time.process_time() - start) / TUNED_CLIPS
                seconds[precision] = min(once, seconds.get(precision, once))
            plain = seconds["float32"]
            report.add(f"fine-tuning {name}: float32", "CPU s a clip", plain)
            if half := seconds.get("bfloat16"):
                what, bar = f"fine-tuning {name}: bfloat16", f"<= {TUNING_BAR}"
                report.add(what, "CPU s a clip", half, plain, bar)


def compiled(network: nn.Module, example: Tensor, precision: str) -> tuple[Way, float]:
    """The compiled network, and the CPU seconds that compiling took."""
    import torch._inductor.config

    torch._dynamo.reset()
    in_precision = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")
    found: Any = None

    def compile_() -> None:
        nonlocal found
        with torch._inductor.config.patch(freezing=True, compile_threads=1), in_precision:
            found = torch.compile(copy.deepcopy(network), dynamic=False)
            found(example)

    before = cpu_seconds()
    children = children_seconds(compile_)
    return in_precision(found.forward), cpu_seconds() - before + children


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
    products(report, options.rounds)
    fine_tuning(report, options.rounds)
    for place, (name, (network, example, share)) in enumerate(networks().items()):
        ways = ways_of(network, example)
        compiling: dict[str, float] = {}
        for precision in precisions() if options.compile else []:
            report.progress(f"{name}: compiling, {precision}")
            way = f"compiled, {precision}"
            ways[way], compiling[way] = compiled(network, example, precision)
            report.add(f"{name}: compiling, {precision}", "CPU s", compiling[way])
        features = {way: work(example).double().flatten() for way, work in ways.items()}
        for way in [*ways][1:]:
            cosine = F.cosine_similarity(features["as it is"], features[way], dim=0)
            report.add(f"{name}: {way}, cosine to float32", "", cosine.item(), bar=">= 0.999")
        seconds: dict[str, float] = {}
        for _ in report.rounds(options.rounds, share=1 / (len(BARS) - place)):
            for way, work in ways.items():
                once = seconds_of(work, example) / share
                seconds[way] = min(once, seconds.get(way, once))
            for way in [*ways][1:]:
                bar = f"<= {BARS[name]}" if "bfloat16" in way else None
                report.add(f"{name}: {way}", "CPU s a clip", seconds[way], seconds["as it is"], bar)
            for way, cost in compiling.items():
                plain = "folded, bfloat16" if "bfloat16" in way else "folded"
                if (saved := seconds[plain] - seconds[way]) > 0:
                    what = f"{name}: {way}, pays beside {plain} from"
                    report.add(what, "clips", cost / saved)


if __name__ == "__main__":
    main()
