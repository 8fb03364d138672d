"""Into the feature store: decoded clips through both encoders, or published features."""

import contextlib
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch
from jaxtyping import Float, Float32, Int, UInt8
from torch import Tensor

from cace.annotations import PUBLISHED_KEY, SEGMENTS, Annotations, segment_labels
from cace.clips import ClipStore
from cace.encoders.audio import AudioEncoder
from cace.encoders.visual import VisualEncoder
from cace.errors import UserError, listed
from cace.features import create_store
from cace.media import SAMPLE_RATE
from cace.workspace import progress

JOURNAL_CLIPS = 16  # clips between two writes to the disk: what a power cut loses at most
BLOCK_BYTES = 64 << 20  # of published features in memory


def extract_features(
    clips: ClipStore,
    visual_encoder: VisualEncoder,
    audio_encoder: AudioEncoder,
    into: Path,
    *,
    batch_size: int,
    precision: str,
    device: torch.device,
    provenance: dict[str, Any],
) -> None:
    """Encodes all usable clips into one store; goes on where an earlier run was killed.

    Memory holds a few clips at a time. A clip counts as done only when it is on the disk.
    The features of a clip that stands in two rows are stored for both.
    Raises: UserError where a feature does not fit into float16.
    """
    annotations = clips.annotations
    rows = [i for i, row in enumerate(annotations.rows) if clips.usable(row.id)]
    if not rows:
        raise UserError(
            f"{clips.folder}: expected usable clips, got none of {len(annotations.ids)}"
        )
    places: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(annotations.rows[row].id, []).append(place)

    def encode(id_: str, frames: np.ndarray, sound: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode(), _autocast(device, precision):
            images = torch.from_numpy(frames).to(device)
            maps = torch.cat([visual_encoder(some) for some in images.split(batch_size)])
            heard = audio_encoder(torch.from_numpy(sound).to(device))
        # The mean over a segment's frames, in float32: bfloat16 would lose its last digits.
        seen = maps.float().unflatten(0, (SEGMENTS, -1)).mean(dim=1).permute(0, 2, 3, 1)
        return _to_float16(id_, seen), _to_float16(id_, heard.float())

    store, journal = into, into.with_suffix(".done")
    if not store.exists():
        journal.unlink(missing_ok=True)  # of a store that was finished and is gone
        blank = np.zeros((SEGMENTS, *clips.frame_shape), np.uint8)
        visual, audio = encode("", blank, np.zeros((SEGMENTS, SAMPLE_RATE), np.float32))
        labels = segment_labels(annotations)[rows]
        create_store(store, annotations, rows, labels, visual.shape, audio.shape, provenance)
    # The journal names the clips that are on the disk already.
    done = set(journal.read_text().splitlines()) if journal.exists() else set()
    todo = [id_ for id_ in places if id_ not in done]
    written: list[str] = []
    with h5py.File(store, "r+") as file, journal.open("a") as log:
        for read in progress(_read_ahead(clips, todo), "extract: clips", total=len(todo)):
            visual, audio = encode(*read)
            for place in places[read.id]:
                file["visual"][place], file["audio"][place] = visual, audio
            written.append(read.id)
            if len(written) == JOURNAL_CLIPS or read.id == todo[-1]:
                file.flush()
                os.fsync(file.id.get_vfd_handle())
                print(*written, sep="\n", file=log, flush=True)
                os.fsync(log.fileno())
                written.clear()


class _Read(NamedTuple):
    id: str
    frames: UInt8[np.ndarray, "F H W 3"]
    sound: Float32[np.ndarray, "T S"]


def _read_ahead(clips: ClipStore, ids: list[str], ahead: int = 2) -> Iterator[_Read]:
    """Reads the next clips on a second thread while this one is encoded."""

    def read(id_: str) -> _Read:
        return _Read(id_, clips.frames(id_), clips.sound(id_))

    with ThreadPoolExecutor(1) as thread:
        waiting = deque(thread.submit(read, id_) for id_ in ids[:ahead])
        for following in [*ids[ahead:], *[None] * ahead]:
            if not waiting:
                return
            result = waiting.popleft().result()
            if following is not None:
                waiting.append(thread.submit(read, following))
            yield result


def _autocast(device: torch.device, precision: str) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def _to_float16(id_: str, features: Tensor) -> Float[np.ndarray, "T ..."]:
    small = features.half()
    if not small.isfinite().all():
        raise UserError(
            f"clip {id_}: a feature of {features.abs().max().item():g} does not fit into float16 "
            f"(at most 65504); are these the encoder's right weights?"
        )
    return small.cpu().numpy()


def convert_features(
    sources: dict[str, Path],
    annotations: Annotations,
    labels: Int[np.ndarray, "N T"],
    into: Path,
    provenance: dict[str, Any],
) -> None:
    """Copies published features into a store as float16, one sample a row.

    sources: the HDF5 files of `visual` [N, T, H, W, V] and `audio` [N, T, A].
    Memory holds a block of samples at a time.
    Raises: UserError with every row that does not hold features; the store is of no use then.
    """
    with contextlib.ExitStack() as stack:
        data = {
            name: stack.enter_context(h5py.File(path))[PUBLISHED_KEY]
            for name, path in sources.items()
        }
        rows = list(range(len(labels)))
        shapes = data["visual"].shape[1:], data["audio"].shape[1:]
        create_store(into, annotations, rows, labels, *shapes, provenance)
        store = stack.enter_context(h5py.File(into, "r+"))
        problems = [
            f"{sources[name]}, {problem}"
            for name in sources
            for problem in _convert(data[name], store[name], name)
        ]
    if problems:
        raise UserError(
            f"extract: {len(problems)} rows cannot be used:{listed(problems)}\n"
            f"Get these files again, then `dvc repro -f download`"
        )


def _convert(source: h5py.Dataset, target: h5py.Dataset, name: str) -> list[str]:
    """Copies all rows; says which of them hold no features."""
    problems = []
    size = max(1, BLOCK_BYTES * len(source) // source.nbytes)
    for start in progress(range(0, len(source), size), f"extract: {name}, blocks"):
        block = source[start : start + size]
        with np.errstate(over="ignore"):
            small = block.astype(np.float16)
        target[start : start + size] = small
        flat, small = block.reshape(len(block), -1), small.reshape(len(block), -1)
        for place in np.flatnonzero(~np.isfinite(small).all(axis=1)):
            first = flat[place][~np.isfinite(small[place])][0]
            problems.append(f"row {start + place}: expected numbers up to 65504, got {first:g}")
        # Zeros are what HDF5 reads where nothing was written. Silence may sound like that too.
        if name == "visual":
            empty = np.flatnonzero(~flat.any(axis=1))
            problems += [f"row {start + p}: expected features, got only zeros" for p in empty]
    return problems
