"""Decoding, compared with a loop in which OpenCV reads every frame and PIL transforms each.

Both make 160 frames of 224 x 224 pixels, and mono sound of 32 kHz, from each of some rendered clips
of 320 x 240, 25 frames a second; theirs reads the sound with PyAV and librosa. CPU time is that
of the clips alone, without imports; memory is that of the complete process. Needs OpenCV:
`pip install -e '.[bench]'`.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measuring import (
    Report,
    alone,
    cpu_seconds,
    in_turns,
    parser,
    peak_megabytes,
    render,
    timed,
)
from cace.conventions import DEADLINE_SECONDS, MIN_SECONDS, SAMPLE_RATE
from cace.media.decode import decode_clip
from cace.system.workers import workers

FRAMES, FPS, SHORT_SIDE, CROP = 160, 16, 232, 224
STORED: Any = {"fps": FPS, "short_side": SHORT_SIDE, "crop": CROP, "jpeg_quality": 95}


def ours(path):
    decode_clip(path, seconds=10, fps=FPS, short_side=SHORT_SIDE, crop=CROP)


def theirs(path):
    import av
    import cv2
    import librosa
    import numpy as np
    import torch
    from PIL import Image
    from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor

    torch.set_num_threads(1)
    transform = Compose(
        [Resize(SHORT_SIDE), CenterCrop(CROP), ToTensor(), Normalize((0.5,) * 3, (0.5,) * 3)]
    )
    video, frames = cv2.VideoCapture(str(path)), []
    while (read := video.read())[0]:
        frames.append(transform(Image.fromarray(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))))
    torch.stack([frames[k * len(frames) // FRAMES] for k in range(FRAMES)])
    with av.open(str(path)) as file:
        sound = np.concatenate([frame.to_ndarray() for frame in file.decode(audio=0)], axis=1)
        rate = file.streams.audio[0].rate
    librosa.resample(sound.mean(axis=0), orig_sr=rate, target_sr=SAMPLE_RATE)


def one_way(way, folder):
    """In a separate process: CPU seconds per clip, and the peak memory."""
    decode = {"ours": ours, "theirs": theirs}[way]
    paths = sorted((folder / "AVE").iterdir())
    decode(paths[0])  # imports
    seconds = timed(lambda: [decode(path) for path in paths], len(paths))
    print(json.dumps({**seconds, "megabytes": peak_megabytes()}))


def stage(folder, count):
    """The complete stage, with `count` processes: seconds per clip, in all and in its main one."""
    from cace.data.annotations import read_annotations
    from cace.media.pool import decode_clips, media_files

    annotations = read_annotations(folder, None)
    files = media_files(folder, annotations) * 4
    before, children = cpu_seconds(), cpu_seconds(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as into:
        decode_clips(
            files,
            annotations,
            Path(into),
            **STORED,
            backend="pyav",
            min_seconds=MIN_SECONDS,
            deadline_seconds=DEADLINE_SECONDS,
            workers=count,
        )
    main, others = cpu_seconds() - before, cpu_seconds(resource.RUSAGE_CHILDREN) - children
    return {
        "cpu": (main + others) / len(files),
        "main": main / len(files),
        "wall": (time.perf_counter() - start) / len(files),
    }


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--clips", type=int, default=6)
    arguments.add_argument("--one-way", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    arguments.add_argument("--stage", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.stage:
        print(json.dumps(stage(options.stage, workers())))
        return
    if options.one_way:
        one_way(options.one_way[0], Path(options.one_way[1]))
        return
    try:
        import cv2
    except ImportError:
        raise SystemExit(
            "error: OpenCV is not installed; run `pip install -e '.[bench]'`"
        ) from None
    report = Report("decode", __doc__)
    report.notes = {"opencv": cv2.__version__, "clips": options.clips}
    unit = "CPU s a clip"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        report.progress(f"rendering {options.clips} clips")
        render(folder, options.clips, 320, 240, 25)
        jobs = {
            "ours": lambda: alone("benchmarks.decode", "--one-way", "ours", folder),
            "theirs": lambda: alone("benchmarks.decode", "--one-way", "theirs", folder),
            "the stage with one process": lambda: stage(folder, 1),
            f"the stage with {workers()}": lambda: stage(folder, workers()),
        }
        for us, them, one, all_cores in in_turns(jobs, report.rounds(options.rounds), report):
            report.add("160 frames and sound", unit, us["cpu"], them["cpu"], "ratio <= 0.25")
            peaks = us["megabytes"], them["megabytes"]
            report.add("peak memory", "MB", *peaks, "ratio <= 0.1")
            report.add("stage with JPEG and shards", unit, all_cores["cpu"], them["cpu"])
            report.add("its main process, which does not scale", unit, all_cores["main"])
            report.add("all cores against one", "s a clip", all_cores["wall"], one["wall"])


if __name__ == "__main__":
    main()
