"""The feature store: one HDF5 file of encoder outputs for every usable sample.

`visual` float16 [N, T, H, W, V] and `audio` float16 [N, T, A] are contiguous and uncompressed, so
that training maps them into memory. Beside them are `labels` [N, T], `id`, `split`, `categories`,
and the attribute `provenance` (JSON, which `cace.extraction.provenance` writes).
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

from cace.system.errors import UserError
from cace.system.files import expect_file


class FeatureStore:
    """Reads `data/features.h5`.

    Raises: UserError if the file, or a dataset in it, is missing, or shapes do not match.
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
    categories: Sequence[str],
    visual_shape: tuple[int, ...],
    audio_shape: tuple[int, ...],
    provenance: dict[str, Any],
) -> None:
    """Writes a store that lacks only the features, completely or not at all.

    ids, splits, labels: of each sample, in the same order.
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
    with h5py.File(temporary, "w") as file:
        for name, shape in (("visual", visual_shape), ("audio", audio_shape)):
            layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            # Contiguous, and on the disk from the start: filling it changes no other byte.
            layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            file.create_dataset(name, (len(ids), *shape), np.float16, dcpl=layout)
        file["labels"] = labels
        file["id"] = list(ids)
        file["split"] = list(splits)
        file["categories"] = list(categories)
        file.attrs["provenance"] = json.dumps(provenance, sort_keys=True)
    if sys.platform == "linux":  # elsewhere a disk may fill up during hours of encoding
        with temporary.open("r+b") as raw:
            os.posix_fallocate(raw.fileno(), 0, temporary.stat().st_size)
    temporary.replace(path)
