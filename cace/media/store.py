"""The decoded store: JPEG frames and 16-bit sound of every clip, in HDF5 shards.

A shard `shard-00012.h5` contains some clips: `id`, `frame` (JPEG bytes of all frames, one after
the other), `frame_offset` [n, F + 1] into it, `sound` int16 [n, S], `usable`, `reason`, `remarks`,
how many seconds of picture and sound the file really had, and what it declares (`facts`).
`clips.csv` lists all clips with all of this, also the unusable ones; `store.json` records how the
store was made.
"""

import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pandas as pd
from jaxtyping import Float32, Int16, UInt8
from PIL import Image

from cace.conventions import SAMPLE_RATE, SEGMENTS
from cace.system.errors import UserError
from cace.system.files import (
    expect_file,
    hash_folder,
    read_text,
    reading,
    write_atomically,
    write_json,
)
from cace.system.hdf5 import expect_undamaged, open_hdf5, opened

DECODE_AGAIN = "run `dvc repro decode`"
OPEN_SHARDS = 256  # of a store: a system lets a process have 1024 files open, or fewer
BILINEAR = "bilinear"  # the interpolation of frames, unless the encoder was trained on another
SOUND_SCALE = 32_767  # int16 of full scale
PADDED_SECONDS = 0.1  # a clip that lacks more is padded; a frame or an encoder's delay is less


class Frames(NamedTuple):
    """How the picture of a clip is scaled and cropped; the content of `data/frames.json`."""

    short_side: int  # pixels, before the crop
    crop: int  # pixels
    interpolation: str  # of `cace.media.decode.SCALING`


def save_frames(path: Path, frames: Frames | None) -> None:
    """Writes the file; None for a source without clips."""
    write_json(path, frames._asdict() if frames else {})


def read_frames(path: Path) -> Frames:
    """Reads what `save_frames` wrote.

    Raises: UserError if the file is missing or damaged.
    """
    with reading(expect_file(path, made_by="frames"), made_by="frames"):
        return Frames(**json.loads(read_text(path)))


class CompressedClip(NamedTuple):
    """A decoded clip in the form in which a shard stores it."""

    jpegs: list[bytes]
    sound: Int16[np.ndarray, " S"]
    picture_seconds: float
    sound_seconds: float


class Facts(NamedTuple):
    """What a video file declares, as text; empty if it declares nothing, or cannot be opened."""

    duration: str = ""
    frames_a_second: str = ""
    size: str = ""
    sound: str = ""


class Verdict(NamedTuple):
    """Whether a clip can be used, and what was found in its file."""

    clip: CompressedClip | None  # None: it is refused
    reason: str = ""  # why
    remarks: Sequence[str] = ()  # worth knowing, but harmless
    facts: Facts = Facts()


def to_jpeg(frame: UInt8[np.ndarray, "H W 3"], quality: int) -> bytes:
    """A frame in its stored form."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _from_jpeg(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def to_int16(sound: Float32[np.ndarray, " S"]) -> Int16[np.ndarray, " S"]:
    """Sound in [-1, 1] in its stored form; louder sound is clipped."""
    return np.rint(np.clip(sound, -1, 1) * SOUND_SCALE).astype(np.int16)


def _from_int16(sound: Int16[np.ndarray, " S"]) -> Float32[np.ndarray, " S"]:
    return sound.astype(np.float32) / SOUND_SCALE


def as_stored(
    frames: UInt8[np.ndarray, "n H W 3"], sound: Float32[np.ndarray, " S"], jpeg_quality: int
) -> tuple[UInt8[np.ndarray, "n H W 3"], Float32[np.ndarray, " S"]]:
    """Frames and sound as a store would return them.

    Outside the pipeline, too, encoders must read what they read in training.
    """
    stored = [_from_jpeg(to_jpeg(frame, jpeg_quality)) for frame in frames]
    return np.stack(stored), _from_int16(to_int16(sound))


def write_shard(
    path: Path, ids: Sequence[str], verdicts: Sequence[Verdict], frame_count: int
) -> None:
    """Writes a shard completely or not at all.

    verdicts: in the order of `ids`.
    frame_count: frames of a clip.
    """
    jpegs: list[bytes] = []
    offsets = np.zeros((len(ids), frame_count + 1), np.int64)
    sound = np.zeros((len(ids), SEGMENTS * SAMPLE_RATE), np.int16)
    seconds = np.zeros((len(ids), 2))
    written = 0
    for row, (clip, *_) in enumerate(verdicts):
        offsets[row] = written
        if clip is None:
            continue
        offsets[row, 1:] += np.cumsum([len(jpeg) for jpeg in clip.jpegs])
        written = offsets[row, -1]
        jpegs += clip.jpegs
        sound[row] = clip.sound
        seconds[row] = clip.picture_seconds, clip.sound_seconds

    # In memory first: HDF5 crashes if the disk is full.
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["id"] = list(ids)
        file["usable"] = [verdict.clip is not None for verdict in verdicts]
        file["reason"] = [verdict.reason for verdict in verdicts]
        file["remarks"] = ["; ".join(verdict.remarks) for verdict in verdicts]
        for name in Facts._fields:
            file[f"facts/{name}"] = [getattr(verdict.facts, name) for verdict in verdicts]
        file["picture_seconds"], file["sound_seconds"] = seconds.T
        file["frame"] = np.frombuffer(b"".join(jpegs), np.uint8)
        file["frame_offset"] = offsets
        file.create_dataset("sound", data=sound, chunks=(1, sound.shape[1]))
    write_atomically(path, buffer.getbuffer())


def write_index(folder: Path, shards: Iterable[Path], settings: dict[str, Any]) -> pd.DataFrame:
    """Writes `clips.csv` and `store.json` of finished shards.

    settings: how the clips were decoded.
    Returns: the content of `clips.csv`, one row per clip.
    """
    index = pd.concat([_shard_index(shard) for shard in shards], ignore_index=True)
    write_atomically(folder / "clips.csv", index.to_csv(index=False))
    sizes = {"sample_rate": SAMPLE_RATE, "segments": SEGMENTS}
    write_json(folder / "store.json", {**settings, **sizes})
    return index


def _shard_index(path: Path) -> pd.DataFrame:
    with opened(path, DECODE_AGAIN) as file:
        usable = file["usable"][:]
        picture, sound = file["picture_seconds"][:], file["sound_seconds"][:]
        return pd.DataFrame(
            {
                "id": file["id"].asstr()[:],
                "shard": path.name,
                "row": np.arange(len(file["id"])),
                "usable": usable,
                "padded": usable & (np.minimum(picture, sound) < SEGMENTS - PADDED_SECONDS),
                "reason": file["reason"].asstr()[:],
                "picture_seconds": picture.round(3),
                "sound_seconds": sound.round(3),
                "remarks": file["remarks"].asstr()[:],
                **{name: file[f"facts/{name}"].asstr()[:] for name in Facts._fields},
            }
        )


class ClipStore:
    """Random access to the decoded clips."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if (folder / "labels.npy").exists():
            raise UserError(
                f"{folder}: expected decoded clips, got only labels; source released has no clips"
            )
        path = expect_file(folder / "store.json", made_by="decode")
        with reading(path, made_by="decode"):
            self.settings: dict[str, Any] = json.loads(read_text(path))
            self.fps: int = self.settings["fps"]
        path = expect_file(folder / "clips.csv", made_by="decode")
        with reading(path, made_by="decode"):
            self.index = pd.read_csv(
                path, dtype={"id": str, "reason": str}, keep_default_na=False
            ).set_index("id")
        self._open: dict[str, h5py.File] = {}

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """Height, width and colours of a frame."""
        return self.settings["crop"], self.settings["crop"], 3

    def fingerprint(self) -> str:
        """Hash over all of the store's files, the annotations too."""
        return hash_folder(self.folder)

    def usable(self, id_: str) -> bool:
        """Whether the clip could be decoded."""
        return bool(self.index.at[id_, "usable"])

    def frames(self, id_: str, which: Sequence[int] | None = None) -> UInt8[np.ndarray, "n H W 3"]:
        """RGB frames of a clip, all of them or those at the given places (fps a second)."""
        file, row = self._find(id_)
        with expect_undamaged(file, DECODE_AGAIN):
            offsets = file["frame_offset"][row]
            begin, end = offsets[0], offsets[-1]
            data = file["frame"][begin:end].tobytes()
            offsets = offsets - begin
            places = range(len(offsets) - 1) if which is None else which
            return np.stack([_from_jpeg(data[offsets[k] : offsets[k + 1]]) for k in places])

    def sound(self, id_: str) -> Float32[np.ndarray, "T S"]:
        """32 kHz sound of a clip in [-1, 1], one row per segment."""
        file, row = self._find(id_)
        with expect_undamaged(file, DECODE_AGAIN):
            return _from_int16(file["sound"][row]).reshape(SEGMENTS, -1)

    def _find(self, id_: str) -> tuple[h5py.File, int]:
        if id_ not in self.index.index:
            raise UserError(f"{self.folder}: no clip {id_!r} in this store")
        entry = self.index.loc[id_].to_dict()
        if not entry["usable"]:
            raise UserError(f"clip {id_}: not usable: {entry['reason']}")
        name = str(entry["shard"])
        file = self._open.get(name)
        if file is None:
            if len(self._open) >= OPEN_SHARDS:
                # It is closed when nothing reads from it any more, on this or another thread.
                self._open.pop(next(iter(self._open)), None)
            path = expect_file(self.folder / name, made_by="decode")
            file = self._open[name] = open_hdf5(path, DECODE_AGAIN)
        return file, int(entry["row"])
