"""Extraction, compared with the bare encoders on tensors in memory.

EfficientNet-Lite0 and log-mel statistics, 224 pixels, 4 frames a second. Ours reads and decodes the
clips, encodes, and writes the features; the bare encoders only encode. Beside it: bfloat16 against
float32, and the peak memory of the stage with 50 and with 500 clips.
"""

import argparse
import json
import tempfile
from pathlib import Path

import h5py
import numpy as np
import torch

from benchmarks.measuring import (
    Report,
    alone,
    in_turns,
    parser,
    peak_megabytes,
    render,
    timed,
)
from cace.conventions import DEADLINE_SECONDS, MIN_SECONDS
from cace.data.annotations import Annotations, Row, load_annotations, read_annotations
from cace.encoders.audio import audio_encoder
from cace.encoders.visual import visual_encoder
from cace.extraction.encode import extract_features
from cace.media.pool import MediaFile, decode_clips, media_files
from cace.media.store import ClipStore
from cace.system.device import choose_device, has_bfloat16
from cace.system.workers import workers

BATCH = 40  # frames
MEMORY_OF = (50, 500)  # clips


def store_of(media, into, clips, fps, side):
    """A decoded store of any number of clips, made from a few files that repeat."""
    annotations = read_annotations(media, None)
    files = media_files(media, annotations)
    names = [f"clip{k}" for k in range(clips)]
    many = Annotations(annotations.categories, tuple(Row(n, 0, 0, 1, "train") for n in names))
    decode_clips(
        [MediaFile(name, files[k % len(files)].path) for k, name in enumerate(names)],
        many,
        into,
        fps=fps,
        short_side=side,
        crop=side,
        jpeg_quality=90,
        backend="pyav",
        min_seconds=MIN_SECONDS,
        deadline_seconds=DEADLINE_SECONDS,
        workers=workers(),
    )
    return into


def visual_of(path):
    with h5py.File(path) as file:
        return file["visual"][:].astype(np.float32)


class Extraction:
    """Both encoders, over a store or over tensors."""

    def __init__(self, clips):
        self.device = choose_device()
        self.clips = ClipStore(clips)
        self.annotations = load_annotations(clips / "annotations.json")
        self.visual = visual_encoder("efficientnet_lite0", "imagenet").to(self.device)
        self.audio = audio_encoder("logmel", "none").to(self.device)

    def complete(self, precision="float32", read=lambda path: None):
        """The stage's work, from the store to the features on the disk, which `read` reads."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "features.h5"
            extract_features(
                self.clips,
                self.annotations,
                self.visual,
                self.audio,
                path,
                batch_size=BATCH,
                precision=precision,
                device=self.device,
                provenance={},
            )
            return read(path)

    def bare(self, tensors, precision="float32"):
        """Only the encoders."""
        for frames, sound in tensors:
            with (
                torch.inference_mode(),
                torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bfloat16"),
            ):
                for some in frames.split(BATCH):
                    self.visual(some)
                self.audio(sound)
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def tensors(self):
        return [
            (
                torch.from_numpy(self.clips.frames(id_)).to(self.device),
                torch.from_numpy(self.clips.sound(id_)).to(self.device),
            )
            for id_ in self.annotations.ids
        ]


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--clips", type=int, default=12)
    arguments.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.memory_of:
        Extraction(options.memory_of).complete()
        print(json.dumps({"megabytes": peak_megabytes()}))
        return
    report = Report("extract", __doc__)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        report.progress("rendering and decoding clips")
        render(folder / "media", 8, 224, 224, 8)
        media = folder / "media"
        work = Extraction(store_of(media, folder / "clips", options.clips, 4, 224))
        report.notes = {"device": str(work.device), "clips": options.clips}
        tensors = work.tensors()
        work.bare(tensors[:1])  # warm
        memory = {}
        for count in MEMORY_OF:
            report.progress(f"peak memory of {count} clips")
            store = store_of(media, folder / str(count), count, 1, 112)
            memory[count] = alone("benchmarks.extract", "--memory-of", store)["megabytes"]
        few, many = memory.values()
        report.add("peak memory, 500 against 50 clips", "MB", many, few, "ratio <= 1.1")
        jobs = {
            "the stage": lambda: timed(work.complete, options.clips),
            "the encoders": lambda: timed(lambda: work.bare(tensors), options.clips),
        }
        if has_bfloat16(work.device):
            report_bfloat16(report, work)
            jobs["the encoders in bfloat16"] = lambda: timed(
                lambda: work.bare(tensors, "bfloat16"), options.clips
            )
        else:
            report.progress("this processor has no bfloat16: it is left out")
        for found in in_turns(jobs, report.rounds(options.rounds), report):
            report_speed(report, *found)


def report_bfloat16(report, work):
    """How near its features are to those in float32."""
    exact, rough = (work.complete(name, visual_of) for name in ("float32", "bfloat16"))
    cosine = (exact * rough).sum() / np.linalg.norm(exact) / np.linalg.norm(rough)
    report.add("bfloat16, cosine to float32", "", float(cosine))
    report.add("bfloat16, largest difference", "", float(np.abs(exact - rough).max()))


def report_speed(report, complete, bare, bare16=None):
    cpu, wall = "clips a CPU s", "clips a s"
    report.add("throughput", cpu, 1 / complete["cpu"], 1 / bare["cpu"], "ratio >= 0.9")
    report.add("throughput by the clock", wall, 1 / complete["wall"], 1 / bare["wall"])
    if bare16:
        report.add("bfloat16 against float32", cpu, 1 / bare16["cpu"], 1 / bare["cpu"])


if __name__ == "__main__":
    main()
