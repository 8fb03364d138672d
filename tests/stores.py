"""Small decoded stores and feature stores, made in memory."""

import json
from pathlib import Path

import h5py
import numpy as np

from cace.data.annotations import Annotations, Row, clip_tags, segment_labels

CATEGORIES = ("Bark", "Flute", "Truck")


def annotations():
    """Clips of three categories in turn, with events of different length."""
    rows = []
    for split, count in (("train", 12), ("val", 6), ("test", 6)):
        for k in range(count):
            start = k % 4
            rows.append(Row(f"{split}{k:03}", k % 3, start, start + 3 + k % 5, split))
    return Annotations(CATEGORIES, tuple(rows))


def write_feature_store(
    path: Path, data: Annotations | None = None, grid=(2, 2), channels=(16, 8), seed=0
) -> Path:
    """Features in which each modality shows the category where there is an event."""
    data = data or annotations()
    rng = np.random.default_rng(seed)
    labels = segment_labels(data)
    count, segments = labels.shape
    patterns = [rng.random((len(data.categories) + 1, width)) for width in channels]
    visual = patterns[0][labels][:, :, None, None, :] + 0.2 * rng.random(
        (count, segments, *grid, channels[0])
    )
    audio = patterns[1][labels] + 0.2 * rng.random((count, segments, channels[1]))
    with h5py.File(path, "w") as file:
        file["visual"], file["audio"] = visual.astype(np.float16), audio.astype(np.float16)
        file["labels"] = labels
        file["tags"] = clip_tags(labels, data.background)
        file["id"] = [row.id for row in data.rows]
        file["split"] = [row.split for row in data.rows]
        file["categories"] = data.categories
        file.attrs["provenance"] = json.dumps(
            {"encoders": {}, "settings": {}, "left_out": {"train": 0, "val": 0, "test": 0}}
        )
    return path
