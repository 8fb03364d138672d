"""Converts the released feature files of AVE into a feature store.

Source: VGG-19 and VGGish features of Tian et al., ECCV 2018.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from jaxtyping import Int

from cace.data.annotations import RELEASED_KEY, Annotations, load_annotations
from cace.data.manifest import read_manifest
from cace.encoders.card import EncoderCard
from cace.extraction.provenance import EncoderCards, Provenance, count_per_split
from cace.features.store import BACKGROUND, MAKE_AGAIN, create_store
from cace.system.errors import UserError, listed
from cace.system.files import expect_file, hash_folder, publish
from cace.system.hdf5 import dataset, open_hdf5, opened
from cace.system.scratch import scratch
from cace.system.workers import progress

GET_AGAIN = "get it again, then `dvc repro -f download`"
BLOCK_BYTES = 64 << 20  # of released features in memory
RELEASED_WEIGHTS = "published features"  # the weights in the cards of their encoders
FRAMES = {"fps": 16}  # what is known of how the clips were decoded


class Released(NamedTuple):
    """A released file, and the encoder that computed it."""

    encoder: str
    file: str
    without_event: str  # more clips, for weak supervision: may be missing


# Source: the paper's Tables 1, 2 and 4.
RELEASED = {
    "visual": Released("vgg19", "visual_feature.h5", "visual_feature_noisy.h5"),
    "audio": Released("vggish", "audio_feature.h5", "audio_feature_noisy.h5"),
}


def convert(media: Path, clips: Path, out: Path) -> EncoderCards:
    """Writes a feature store from the released files in `media`.

    clips: the folder with the labels and splits that `decode` wrote.
    Returns: the encoders of the features.
    """
    labels_file = expect_file(clips / "labels.npy", made_by="decode")
    manifest = read_manifest(media)
    hashes = dict(zip(manifest["file"], manifest["sha256"], strict=True))
    cards = EncoderCards(
        **{
            modality: EncoderCard(released.encoder, RELEASED_WEIGHTS, hashes[released.file])
            for modality, released in RELEASED.items()
        }
    )
    provenance = Provenance(cards, FRAMES, hash_folder(clips), count_per_split([])).as_json()
    without_event = [hashes.get(released.without_event) for released in RELEASED.values()]
    with scratch("extract", provenance, without_event) as work:
        finished = work / "features.h5"
        if not finished.exists():
            convert_features(
                {
                    modality: [media / released.file]
                    + [media / released.without_event] * all(without_event)
                    for modality, released in RELEASED.items()
                },
                load_annotations(clips / "annotations.json"),
                np.load(labels_file),
                np.load(clips / "tags.npy"),
                work / "unfinished.h5",
                provenance,
            )
            (work / "unfinished.h5").replace(finished)
        publish(finished, out)
    return cards


def convert_features(
    sources: dict[str, list[Path]],
    annotations: Annotations,
    labels: Int[np.ndarray, "N T"],
    tags: Int[np.ndarray, " N"],
    into: Path,
    provenance: dict[str, Any],
) -> None:
    """Copies released features into a store as float16, one sample per row.

    sources: the HDF5 files of `visual` [N, T, H, W, V] and `audio` [N, T, A]. A second file of each
        is of clips without an event, which become the split `background`.
    labels, tags: of the first files.
    Only a block of samples is in memory at a time.
    Raises: UserError with every row that contains no features; do not use the store then.
    """
    with contextlib.ExitStack() as stack:
        data = {
            name: [
                dataset(stack.enter_context(open_hdf5(path, GET_AGAIN)), RELEASED_KEY)
                for path in paths
            ]
            for name, paths in sources.items()
        }
        more = sum(map(len, data["visual"])) - len(labels)
        without_event = np.full((more, labels.shape[1]), annotations.background)
        create_store(
            into,
            ids=[row.id for row in annotations.rows] + [f"background {k}" for k in range(more)],
            splits=[row.split for row in annotations.rows] + [BACKGROUND] * more,
            labels=np.concatenate([labels, without_event]),
            tags=np.concatenate([tags, without_event[:, 0]]),
            categories=annotations.categories,
            visual_shape=data["visual"][0].shape[1:],
            audio_shape=data["audio"][0].shape[1:],
            provenance=provenance,
        )
        store = stack.enter_context(open_hdf5(into, MAKE_AGAIN, "r+"))
        problems = []
        for name, paths in sources.items():
            start = 0
            for path, source in zip(paths, data[name], strict=True):
                problems += [
                    f"{path}, {problem}" for problem in _convert(source, store[name], start, name)
                ]
                start += len(source)
    if problems:
        raise UserError(
            f"extract: {len(problems)} rows cannot be used:{listed(problems)}\n"
            f"Get these files again, then `dvc repro -f download`"
        )


def _convert(source: h5py.Dataset, target: h5py.Dataset, first: int, name: str) -> list[str]:
    """Copies all rows to row `first` and later; a problem for each that contains no features."""
    problems = []
    for start, block, small in _blocks(source, f"extract: {name}, blocks"):
        target[first + start : first + start + len(small)] = small
        problems += _without_features(start, block, small, name)
    return problems


def unusable_rows(path: Path, name: str) -> list[str]:
    """A problem for each row of a released file that contains no features.

    name: visual or audio.
    """
    with opened(path, GET_AGAIN) as file:
        return [
            problem
            for start, block, small in _blocks(dataset(file, RELEASED_KEY), f"{name}, blocks")
            for problem in _without_features(start, block, small, name)
        ]


def _blocks(source: h5py.Dataset, what: str) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """The first row of each block, its rows as they are, and as float16."""
    size = max(1, BLOCK_BYTES * len(source) // source.nbytes)
    for start in progress(range(0, len(source), size), what):
        block = source[start : start + size]
        with np.errstate(over="ignore"):
            yield start, block, block.astype(np.float16)


def _without_features(start: int, block: np.ndarray, small: np.ndarray, name: str) -> list[str]:
    flat, small = block.reshape(len(block), -1), small.reshape(len(block), -1)
    problems = []
    for place in np.flatnonzero(~np.isfinite(small).all(axis=1)):
        first = flat[place][~np.isfinite(small[place])][0]
        problems.append(f"row {start + place}: expected numbers up to 65504, got {first:g}")
    # HDF5 returns zeros if nothing was written. Audio features of silence may be zeros too.
    if name == "visual":
        empty = np.flatnonzero(~flat.any(axis=1))
        problems += [f"row {start + p}: expected features, got only zeros" for p in empty]
    return problems
