"""What each stage of the pipeline costs per clip, and for millions of clips.

Profile ave: 160 frames of 224 pixels, ResNet-50, Cnn14 (with random weights, which cost the
same). Each stage works on rendered clips in a separate process. The table is the figures of the
last round times the number of clips; only the memory of the lists is measured at each size.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import torch
import yaml

from benchmarks.decode import STORED
from benchmarks.measuring import (
    Report,
    alone,
    cpu_seconds,
    parser,
    peak_megabytes,
    render,
)
from cace.conventions import DEADLINE_SECONDS, MIN_SECONDS
from cace.data.annotations import (
    AVE_CATEGORIES,
    Annotations,
    Row,
    load_annotations,
    read_annotations,
    save_annotations,
    segment_labels,
)
from cace.encoders.audio import audio_encoder
from cace.encoders.visual import visual_encoder
from cace.extraction.encode import Decoded, Encoding
from cace.features.store import create_store
from cace.finetuning.contrast import finetune
from cace.finetuning.processes import Team
from cace.media.pool import decode_clips, media_files
from cace.media.store import ClipStore
from cace.settings import Params, changed, load_params
from cace.system.device import choose_device, has_bfloat16
from cace.system.files import write_json
from cace.system.workers import workers
from cace.training.runs import Job, train_one

SIZES = {"AVE": 4_143, "VGGSound-AVEL": 100_000, "AudioSet": 2_000_000}
SPLITS = ("train",) * 8 + ("val", "test")  # of ten clips, as in AVE
SHAPES = (10, 7, 7, 2048), (10, 2048)  # of a clip's features
UNIT = "GPU" if torch.cuda.is_available() else "CPU"
CORES, MACHINES = 16, 8  # of a machine, and how many of them, in the last columns


def spent(device: torch.device) -> float:
    """Seconds so far: of the processor, or with a GPU of the clock."""
    if device.type == "cpu":
        return cpu_seconds()
    torch.cuda.synchronize()
    return time.perf_counter()


def decode(folder: Path) -> dict[str, float]:
    """Writes the store that the other parts read."""
    media = folder / "media"
    files = media_files(media, read_annotations(media, None))
    rows = [Row(file.id, 0, 0, 10, split) for file, split in zip(files, SPLITS, strict=True)]
    decode_clips(
        files,
        Annotations(AVE_CATEGORIES, tuple(rows)),
        folder / "clips",
        **STORED,
        backend="pyav",
        min_seconds=MIN_SECONDS,
        deadline_seconds=DEADLINE_SECONDS,
        workers=workers(),
    )
    written = sum(path.stat().st_size for path in (folder / "clips").glob("shard-*"))
    return {"bytes": written / len(files)}


def extract(folder: Path, precision: str) -> dict[str, float]:
    """One clip, after another one that is not counted."""
    clips = ClipStore(folder / "clips")
    encoding = Encoding(
        visual_encoder("resnet50", "none"), audio_encoder("cnn14", "none"), 40, precision
    )
    ids = load_annotations(clips.folder / "annotations.json").ids
    first, second = (Decoded(id_, clips.frames(id_), clips.sound(id_)) for id_ in ids[:2])
    device = choose_device()
    encoding.to(device).encode(first, device)
    before = spent(device)
    encoding.encode(second, device)
    return {"seconds": spent(device) - before, "megabytes": peak_megabytes()}


def fine_tune(folder: Path, precision: str, epochs: str) -> dict[str, float]:
    """The eight clips of train and the one of val; a clip is a tenth of it."""
    clips = ClipStore(folder / "clips")
    settings = profile().finetune
    assert settings is not None
    ids, device = load_annotations(clips.folder / "annotations.json").ids, choose_device()
    before = spent(device)
    finetune(
        visual_encoder("resnet50", "none"),
        audio_encoder("cnn14", "none"),
        clips,
        ids[:8],
        ids[8:9],
        state=folder / f"finetune-{precision}-{epochs}.pt",
        **settings.model_dump() | {"epochs": int(epochs), "precision": precision},
        device=device,
        team=Team(),
    )
    return {"seconds": (spent(device) - before) / len(SPLITS), "megabytes": peak_megabytes()}


def train(folder: Path, precision: str, epochs: str) -> dict[str, float]:
    """One seed, on random features of 32 train clips, with val and test in the shares of AVE."""
    rows = [Row(str(k), 0, 0, 9, split) for k, split in enumerate(SPLITS * 4)]
    annotations = Annotations(AVE_CATEGORIES, tuple(rows))
    store = folder / "features.h5"
    if not store.exists():
        about: dict[str, Any] = {"encoders": {}, "settings": {}}
        visual_shape, audio_shape = SHAPES
        create_store(
            store,
            ids=[row.id for row in rows],
            splits=[row.split for row in rows],
            labels=segment_labels(annotations),
            tags=np.zeros(len(rows), int),
            categories=AVE_CATEGORIES,
            visual_shape=visual_shape,
            audio_shape=audio_shape,
            provenance=about,
        )
        rng = np.random.default_rng(0)
        with h5py.File(store, "r+") as file:
            for place in range(len(rows)):
                for name, shape in zip(("visual", "audio"), SHAPES, strict=True):
                    file[name][place] = rng.random(shape, np.float32)
    settings = {"train": {"epochs": int(epochs), "precision": precision}}
    params = changed(profile(), settings, "benchmarks.costs")
    work, device = folder / f"train-{precision}-{epochs}", choose_device()
    before = spent(device)
    train_one(Job("seed-0", 0), store, work, params, device)
    return {"seconds": (spent(device) - before) / len(rows), "megabytes": peak_megabytes()}


def lists(folder: Path, count: str) -> dict[str, float]:
    """The list of all clips and their labels, as every stage loads them."""
    before = peak_megabytes()
    many = folder / count
    ClipStore(many).usable("clip0")
    segment_labels(load_annotations(many / "annotations.json"))
    return {"megabytes": peak_megabytes() - before}


def write_lists(folder: Path, count: int) -> None:
    """A store of this many clips, without its shards."""
    ids = [f"clip{k}" for k in range(count)]
    folder.mkdir()
    rows = tuple(Row(id_, k % 28, 0, 10, "train") for k, id_ in enumerate(ids))
    save_annotations(folder / "annotations.json", Annotations(AVE_CATEGORIES, rows))
    index = {"id": ids, "shard": "shard-00000.h5", "row": 0, "usable": True, "reason": ""}
    pd.DataFrame(index).to_csv(folder / "clips.csv", index=False)
    write_json(folder / "store.json", {"fps": 16})


def profile() -> Params:
    """params.yaml with profile ave."""
    with tempfile.TemporaryDirectory() as root:
        params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
        params["data"]["source"] = "ave"
        (Path(root) / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
        (Path(root) / "profiles").symlink_to(Path("profiles").resolve())
        return load_params(Path(root))


def table(seconds: dict[str, float], size: dict[str, float], memory: dict[str, float]) -> Any:
    """seconds and size (bytes): of a clip; memory: MB of lists, of all clips."""
    decoding, encoding = seconds["decode, CPU"], seconds[f"extract in float32, {UNIT}"]
    hours = (decoding / CORES + encoding / (CORES if UNIT == "CPU" else 1)) / 3600
    machine = f"{CORES} cores" if UNIT == "CPU" else f"{CORES} cores and a GPU"
    clip = {
        **{f"{what} h": one / 3600 for what, one in seconds.items()},
        **{f"{what}, GB": one / 1e9 for what, one in size.items()},
        f"decode and extract on {machine}, h": hours,
        f"on {MACHINES} such machines, h": hours / MACHINES,
    }
    columns = {
        f"{clips:,} ({name})": {
            **{what: clips * one for what, one in clip.items()},
            "lists in memory, GB": memory[name] / 1e3,
        }
        for name, clips in SIZES.items()
    }
    return pd.DataFrame(columns).map(lambda x: f"{x:,.0f}" if x >= 10 else f"{x:.2g}")


def main() -> None:
    """Prints the figures, and the table that comes from them."""
    arguments = parser(__doc__)
    arguments.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.part:
        name, folder, *rest = options.part
        part = {one.__name__: one for one in (decode, extract, fine_tune, train, lists)}[name]
        print(json.dumps(part(Path(folder), *rest)))
        return
    report = Report("costs", __doc__)
    precisions = ["float32", "bfloat16"] if has_bfloat16(choose_device()) else ["float32"]
    if len(precisions) == 1:
        report.progress("this processor has no bfloat16: it is left out")
    with tempfile.TemporaryDirectory() as temporary:
        report.progress(f"rendering {len(SPLITS)} clips")
        render(Path(temporary) / "media", len(SPLITS), 320, 240, 25)
        for clips in SIZES.values():
            write_lists(Path(temporary) / str(clips), clips)
        for number in report.rounds(options.rounds):
            folder = Path(temporary) / f"round-{number}"
            folder.mkdir()
            found = measure(report, Path(temporary), folder, precisions)
    print(table(*found).to_markdown(disable_numparse=True, stralign="right"))


def measure(
    report: Report, inputs: Path, work: Path, precisions: list[str]
) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """Seconds and bytes of a clip, and the memory of lists in MB; adds each as a figure."""
    settings = profile()
    assert settings.finetune is not None
    seconds: dict[str, float] = {}

    def measured(part: str, *arguments: Any, folder: Path = work) -> dict[str, float]:
        report.progress(" ".join(map(str, (part, *arguments))))
        return alone("benchmarks.costs", "--part", part, folder, *arguments)

    def add(what: str, one: float) -> None:
        seconds[what] = one
        report.add(what, "s a clip", one)

    (work / "media").symlink_to(inputs / "media")
    report.progress("decode, the stage")
    # In a separate process: the workers of this one would import torch, too.
    add("decode, CPU", alone("benchmarks.decode", "--stage", inputs / "media")["cpu"])
    features = float(sum(2 * np.prod(shape) for shape in SHAPES))  # float16
    size = {"clips": measured("decode")["bytes"], "features": features}
    for what, one in size.items():
        report.add(f"{what} on disk", "MB a clip", one / 1e6)
    epochs = settings.finetune.epochs
    for precision in precisions:
        maps, tuned = (measured("fine_tune", precision, count) for count in (0, 1))
        tuning = maps["seconds"] + epochs * (tuned["seconds"] - maps["seconds"])
        add(f"finetune in {precision}, {epochs} epochs, {UNIT}", tuning)
        report.add(f"finetune in {precision}: peak memory", "MB", tuned["megabytes"])
    for precision in precisions:
        found = measured("extract", precision)
        add(f"extract in {precision}, {UNIT}", found["seconds"])
        report.add(f"extract in {precision}: peak memory", "MB", found["megabytes"])
    epochs = settings.train.epochs
    for precision in precisions:
        once, thrice = (measured("train", precision, count) for count in (1, 3))
        epoch = (thrice["seconds"] - once["seconds"]) / 2
        add(f"train in {precision}, a seed, {epochs} epochs, {UNIT}", epochs * epoch)
        report.add(f"train in {precision}: peak memory", "MB", thrice["megabytes"])
    memory = {
        name: measured("lists", clips, folder=inputs)["megabytes"] for name, clips in SIZES.items()
    }
    for name, megabytes in memory.items():
        report.add(f"lists, {name}", "MB", megabytes)
    return seconds, size, memory


if __name__ == "__main__":
    main()
