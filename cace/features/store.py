"""The feature store: one HDF5 file of encoder outputs for every usable sample.

`visual` float16 [N, T, H, W, V] and `audio` float16 [N, T, A] are contiguous and uncompressed, so
that training maps them into memory. Beside them are `labels` [N, T], `tags` [N], `id`, `split`,
`categories`, and the attribute `provenance` (JSON, which `cace.extraction.provenance` writes).
"""

import json
import math
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Int

from cace.conventions import SEGMENTS
from cace.system.errors import UserError, shown
from cace.system.files import expect_file
from cace.system.hdf5 import dataset, open_hdf5, opened

BACKGROUND = "background"  # split of clips that only weak supervision trains on
MAKE_AGAIN = "remove it and run the same command again"  # a store that is not complete yet
PROVENANCE = ("encoders", "settings", "left_out")  # its entries that others read


class FeatureStore:
    """Reads `data/features.h5`.

    Raises: UserError if the file, or a dataset in it, is missing, or shapes do not match.
    """

    def __init__(self, path: Path) -> None:
        self.path = expect_file(path, made_by="extract")
        with opened(path, "run `dvc repro extract`") as file:
            data = self._checked(file)
            self.labels: Int[np.ndarray, "N T"] = data["labels"][:].astype(np.int64)
            self.tags: Int[np.ndarray, " N"] = data["tags"][:].astype(np.int64)
            self.ids: list[str] = list(data["id"].asstr()[:])
            self.splits: np.ndarray = data["split"].asstr()[:]
            self.categories: tuple[str, ...] = tuple(data["categories"].asstr()[:])
            written = json.loads(file.attrs["provenance"])
            self.provenance: dict[str, Any] = {**{key: {} for key in PROVENANCE}, **written}
            self.visual = _map(path, data["visual"])
            self.audio = _map(path, data["audio"])
        names = self.categories
        if len(set(names)) < len(names) or not all(name and name.isprintable() for name in names):
            raise UserError(
                f"{path}, categories: expected printable names, each once, got {shown(names)}; run "
                f"`dvc repro extract`"
            )
        for name, labels in (("labels", self.labels), ("tags", self.tags)):
            if not np.isin(labels, np.arange(self.background + 1)).all():
                raise UserError(
                    f"{path}, {name}: expected numbers from 0 to {self.background}, got others; "
                    f"run `dvc repro extract`"
                )

    def _checked(self, file: h5py.File) -> dict[str, h5py.Dataset]:
        axes = {
            "visual": 5,
            "audio": 3,
            "labels": 2,
            "tags": 1,
            "id": 1,
            "split": 1,
            "categories": 1,
        }
        numbers, floats = ("i8", "i4", "i2", "i1"), ("f2", "f4")
        kinds = {"visual": floats, "audio": floats, "labels": numbers, "tags": numbers}
        size, data = self.path.stat().st_size, {}
        if missing := [name for name in axes if name not in file]:
            raise UserError(
                f"{self.path}: lacks {', '.join(missing)}, which an older version of cace may not "
                f"have written; run `dvc repro extract`"
            )
        for name, count in axes.items():
            found = dataset(file, name)
            if found.ndim != count:
                raise UserError(f"{self.path}, {name}: expected {count} axes, got {found.shape}")
            if name not in kinds and not h5py.check_string_dtype(found.dtype):
                raise UserError(f"{self.path}, {name}: expected text, got {found.dtype}")
            if name in kinds and found.dtype not in map(np.dtype, kinds[name]):
                expected = " or ".join(str(np.dtype(kind)) for kind in kinds[name][:2])
                raise UserError(f"{self.path}, {name}: expected {expected}, got {found.dtype}")
            if found.nbytes > size:  # never written, or compressed: reading it may fill the memory
                raise UserError(
                    f"{self.path}, {name}: expected {found.nbytes:,} bytes, and the file has "
                    f"{size:,}; run `dvc repro extract`"
                )
            data[name] = found
        samples, segments = data["labels"].shape
        if segments != SEGMENTS:
            raise UserError(
                f"{self.path}, labels: expected {SEGMENTS} segments of each clip, got {segments}; "
                f"run `dvc repro extract`"
            )
        for name in ("visual", "audio"):
            if data[name].shape[:2] != (samples, segments):
                raise UserError(
                    f"{self.path}, {name}: expected [{samples}, {segments}, ...] as the labels, "
                    f"got {data[name].shape}"
                )
        for name in ("tags", "id", "split"):
            if len(data[name]) != samples:
                raise UserError(f"{self.path}, {name}: expected {samples}, got {len(data[name])}")
        return data

    @property
    def background(self) -> int:
        """Label of a segment without an event."""
        return len(self.categories)

    @property
    def grid(self) -> tuple[int, int]:
        """H and W of the visual maps."""
        return self.visual.shape[2], self.visual.shape[3]

    def rows(self, split: str) -> Int[np.ndarray, " n"]:
        """Places of a split's samples.

        Raises: UserError if the split is empty.
        """
        rows = np.flatnonzero(self.splits == split)
        if not len(rows):
            raise UserError(f"{self.path}: expected samples in split {split}, got none")
        return rows


def _map(path: Path, dataset: h5py.Dataset) -> np.ndarray:
    """A contiguous dataset as an array that the operating system reads on demand."""
    offset = dataset.id.get_offset()
    if offset is None:
        return dataset[:]
    return np.memmap(path, dataset.dtype, "r", offset, dataset.shape)


def create_store(
    path: Path,
    *,
    ids: Sequence[str],
    splits: Sequence[str],
    labels: Int[np.ndarray, "N T"],
    tags: Int[np.ndarray, " N"],
    categories: Sequence[str],
    visual_shape: tuple[int, ...],
    audio_shape: tuple[int, ...],
    provenance: dict[str, Any],
) -> None:
    """Writes a store that lacks only the features, completely or not at all.

    ids, splits, labels, tags: of each sample, in the same order. A tag is all that weak supervision
        knows of a sample: the category of its event, or the background label.
    visual_shape, audio_shape: of one sample's features.
    provenance: plain JSON.
    """
    size = 2 * len(ids) * sum(math.prod(shape) for shape in (visual_shape, audio_shape))
    if (free := shutil.disk_usage(path.parent).free) < size:
        raise UserError(
            f"{path}: the features need {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free; "
            f"free some space and run the same command again"
        )
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open_hdf5(temporary, MAKE_AGAIN, "w") as file:
        for name, shape in (("visual", visual_shape), ("audio", audio_shape)):
            layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            # Contiguous, and on the disk from the start: filling it changes no other byte.
            layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            file.create_dataset(name, (len(ids), *shape), np.float16, dcpl=layout)
        file["labels"] = labels
        file["tags"] = tags
        file["id"] = list(ids)
        file["split"] = list(splits)
        file["categories"] = list(categories)
        file.attrs["provenance"] = json.dumps(provenance, sort_keys=True)
    if sys.platform == "linux":  # elsewhere a disk may fill up during hours of encoding
        with temporary.open("r+b") as raw:
            os.posix_fallocate(raw.fileno(), 0, temporary.stat().st_size)
    temporary.replace(path)
