"""The feature store: one HDF5 file of encoder outputs for every usable sample.

`visual` float16 [N, T, H, W, V] and `audio` float16 [N, T, A] lie contiguous and uncompressed, so
that training maps them into memory; beside them `labels` [N, T], `id`, `split`, `categories`, and
the attribute `provenance` (JSON: encoders, their weights' hashes, settings, what was left out).
"""

import json
import math
import os
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Int

from cace.conventions import SPLITS
from cace.data.annotations import Annotations
from cace.system.errors import UserError
from cace.system.files import expect_file


class FeatureStore:
    """Reads `data/features.h5`.

    Raises: UserError where the file is not there, or datasets miss or disagree in shape.
    """

    def __init__(self, path: Path) -> None:
        self.path = expect_file(path, made_by="extract")
        try:
            file = h5py.File(path)
        except OSError as error:
            raise UserError(
                f"{path}: not an HDF5 file ({error}); run `dvc repro extract`"
            ) from None
        with file:
            self._check(file)
            self.labels: Int[np.ndarray, "N T"] = file["labels"][:]
            self.ids: list[str] = list(file["id"].asstr()[:])
            self.splits: np.ndarray = file["split"].asstr()[:]
            self.categories: tuple[str, ...] = tuple(file["categories"].asstr()[:])
            self.provenance: dict[str, Any] = json.loads(file.attrs["provenance"])
            self.visual = _map(path, file["visual"])
            self.audio = _map(path, file["audio"])

    def _check(self, file: h5py.File) -> None:
        axes = {"visual": 5, "audio": 3, "labels": 2, "id": 1, "split": 1, "categories": 1}
        for name, count in axes.items():
            if name not in file or file[name].ndim != count:
                found = file[name].shape if name in file else "nothing"
                raise UserError(f"{self.path}, {name}: expected {count} axes, got {found}")
        samples, segments = file["labels"].shape
        for name in ("visual", "audio"):
            if file[name].shape[:2] != (samples, segments):
                raise UserError(
                    f"{self.path}, {name}: expected [{samples}, {segments}, ...] as the labels, "
                    f"got {file[name].shape}"
                )
        for name in ("id", "split"):
            if len(file[name]) != samples:
                raise UserError(f"{self.path}, {name}: expected {samples}, got {len(file[name])}")

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

        Raises: UserError where the split is empty.
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
    annotations: Annotations,
    rows: list[int],
    labels: Int[np.ndarray, "n T"],
    visual_shape: tuple[int, ...],
    audio_shape: tuple[int, ...],
    provenance: dict[str, Any],
) -> None:
    """An empty store with all but the features, whole or not at all.

    labels: of `rows`, in their order.
    """
    kept = [annotations.rows[row] for row in rows]
    left_out = Counter(row.split for row in annotations.rows)
    left_out.subtract(row.split for row in kept)
    size = 2 * len(kept) * sum(math.prod(shape) for shape in (visual_shape, audio_shape))
    if (free := shutil.disk_usage(path.parent).free) < size:
        raise UserError(
            f"{path}: the features take {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free; "
            f"free some space and run the same command again"
        )
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with h5py.File(temporary, "w") as file:
        for name, shape in (("visual", visual_shape), ("audio", audio_shape)):
            layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            # Contiguous, and on the disk from the start: filling it touches no other byte.
            layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            file.create_dataset(name, (len(kept), *shape), np.float16, dcpl=layout)
        file["labels"] = labels
        file["id"] = [row.id for row in kept]
        file["split"] = [row.split for row in kept]
        file["categories"] = annotations.categories
        content = {**provenance, "left_out": {split: left_out[split] for split in SPLITS}}
        file.attrs["provenance"] = json.dumps(content, sort_keys=True)
    if sys.platform == "linux":  # elsewhere a disk may fill up under hours of encoding
        with temporary.open("r+b") as raw:
            os.posix_fallocate(raw.fileno(), 0, temporary.stat().st_size)
    temporary.replace(path)
