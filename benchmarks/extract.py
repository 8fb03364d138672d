"""Extraction against the bare encoders on tensors in memory: `python -m benchmarks.extract`.

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

from benchmarks.measuring import alone, figure, in_turns, peak_megabytes, render, report, timed
from cace.conventions import DEADLINE_SECONDS, MIN_SECONDS
from cace.data.annotations import Annotations, Row, load_annotations, read_annotations
from cace.encoders.audio import audio_encoder
from cace.encoders.visual import visual_encoder
from cace.extraction.encode import extract_features
from cace.media.pool import MediaFile, decode_clips, media_files
from cace.media.store import ClipStore
from cace.system.device import choose_device
from cace.system.workers import workers

BATCH = 40  # frames


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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        Extraction(options.memory_of).complete()
        print(json.dumps({"megabytes": peak_megabytes()}))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        render(folder / "media", 8, 224, 224, 8)
        media = folder / "media"
        work = Extraction(store_of(media, folder / "clips", options.clips, 4, 224))
        tensors = work.tensors()
        work.bare(tensors[:1])  # warm
        complete, bare, bare16 = in_turns(
            lambda: timed(work.complete, options.clips),
            lambda: timed(lambda: work.bare(tensors), options.clips),
            lambda: timed(lambda: work.bare(tensors, "bfloat16"), options.clips),
            rounds=options.rounds,
        )
        exact, rough = (work.complete(name, visual_of) for name in ("float32", "bfloat16"))
        few, many = (
            alone(
                "benchmarks.extract",
                "--memory-of",
                store_of(media, folder / str(count), count, 1, 112),
            )["megabytes"]
            for count in (50, 500)
        )
    cosine = (exact * rough).sum() / np.linalg.norm(exact) / np.linalg.norm(rough)
    cpu, wall = "clips a CPU s", "clips a s"
    figures = [
        figure("extract: throughput", cpu, 1 / complete["cpu"], 1 / bare["cpu"], "ratio >= 0.9"),
        figure("extract: throughput by the clock", wall, 1 / complete["wall"], 1 / bare["wall"]),
        figure("extract: bfloat16 against float32", cpu, 1 / bare16["cpu"], 1 / bare["cpu"]),
        figure("extract: bfloat16, cosine to float32", "", float(cosine)),
        figure("extract: bfloat16, largest difference", "", float(np.abs(exact - rough).max())),
        figure("extract: peak memory, 500 against 50 clips", "MB", many, few, "ratio <= 1.1"),
    ]
    report(figures, device=str(work.device), clips=options.clips, largest=float(exact.max()))


if __name__ == "__main__":
    main()
