"""Which clips train a matcher, and which score it."""

from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from cace.conventions import SPLITS
from cace.data.sources.released_labels import MATCHING_ORDER, ORDER_KEY, read_data
from cace.features.store import BACKGROUND, FeatureStore
from cace.settings import Source
from cace.system.errors import UserError, shown

GET_AGAIN = (
    "get them again from AVE's release and run `dvc repro -f download`; with data.path, put them "
    "there first"
)


def splits_of(store: FeatureStore, source: Source, media: Path) -> Shaped[np.ndarray, " N"]:
    """The split of each row of a feature store.

    On the released features, cross-modality localization has a separate split, in the files
    `*_order_match.h5`. Most of its test clips are in the train split of the segment task. With all
    other sources, both tasks have the same split.

    media: the folder with these files.
    Raises: UserError if the files are missing or damaged, or are those of the segment task.
    """
    if source != "released":
        return store.splits
    if missing := [name for name in MATCHING_ORDER.values() if not (media / name).exists()]:
        raise UserError(
            f"{media}: matching on the released features needs {', '.join(missing)}; {GET_AGAIN}"
        )
    rows = {split: _order(media / name, len(store.ids)) for split, name in MATCHING_ORDER.items()}
    _expect_apart(rows, media)
    splits = np.where(store.splits == BACKGROUND, BACKGROUND, "").astype(object)
    for split in SPLITS:
        splits[rows[split]] = split
    if lacking := np.flatnonzero(splits == "").tolist():
        raise UserError(f"{media}: rows {shown(lacking)} are in no *_order_match.h5; {GET_AGAIN}")
    if (splits == store.splits).all():
        raise UserError(
            f"{media}: *_order.h5 and *_order_match.h5 contain the same split, so one of them is "
            f"of the other task; {GET_AGAIN}"
        )
    return splits


def _order(path: Path, count: int) -> np.ndarray:
    rows = read_data(path, ORDER_KEY)
    if rows.ndim != 1 or not len(rows) or rows.dtype.kind not in "iu":
        raise UserError(f"{path}: expected row numbers [n], got {rows.dtype} {[*rows.shape]}")
    if rows.min() < 0 or rows.max() >= count or len(set(rows.tolist())) < len(rows):
        raise UserError(f"{path}: expected rows from 0 to {count - 1}, each once; {GET_AGAIN}")
    return rows


def _expect_apart(rows: dict[str, np.ndarray], media: Path) -> None:
    for one, other in (("test", "train"), ("val", "train"), ("test", "val")):
        if leak := len(np.intersect1d(rows[one], rows[other])):
            raise UserError(
                f"{media}: {leak} of the {len(rows[one])} rows of {MATCHING_ORDER[one]} are in "
                f"{MATCHING_ORDER[other]} too. A model would be scored on what it was trained on. "
                f"One of these files is of the split of the segment task; {GET_AGAIN}"
            )
