"""The decoded store: JPEG frames and 16-bit sound of every clip, in HDF5 shards.

A shard `shard-00012.h5` holds up to 32 clips: `id`, `frame` (JPEG bytes of all frames, one after
the other), `frame_offset` [n, F + 1] into it, `sound` int16 [n, S], `usable`, `reason`, and how
many seconds of picture and sound the file really held. `clips.csv` lists all clips, also the
unusable ones with their reason; `annotations.json` the samples; `store.json` how it was made.

Clips are decoded in processes of their own. One that takes too long, or takes its process down,
is refused alone: decoders hang and crash in native code, where no exception reaches.
"""

import hashlib
import io
import json
import multiprocessing
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pandas as pd
from jaxtyping import Float32, Int16, UInt8
from pebble import ProcessExpired, ProcessFuture, ProcessPool
from PIL import Image

from cace.conventions import SAMPLE_RATE, SEGMENTS
from cace.data.annotations import Annotations, load_annotations, save_annotations
from cace.media.decode import UnusableClipError, decode_clip
from cace.system.cluster import on_cluster
from cace.system.errors import UserError
from cace.system.files import expect_file, sha256, write_atomically, write_json
from cace.system.workers import progress

SHARD_CLIPS = 32
CLIPS_AHEAD = 2 * SHARD_CLIPS  # on their way at once, or two a process: bounds the memory
OPEN_SHARDS = 256  # of a store: a system lets a process have 1024 files open, or fewer
SOUND_SCALE = 32_767  # int16 of full scale
PADDED_SECONDS = 0.1  # a clip that lacks more is padded; a frame or an encoder's delay is less


class MediaFile(NamedTuple):
    """A clip's file; None where there is none."""

    id: str
    path: Path | None


class Shard(NamedTuple):
    """A file of the store, and the clips that it holds."""

    path: Path
    files: Sequence[MediaFile]


class CompressedClip(NamedTuple):
    """A decoded clip as a shard holds it."""

    jpegs: list[bytes]
    sound: Int16[np.ndarray, " S"]
    picture_seconds: float
    sound_seconds: float


def decode_clips(
    files: Sequence[MediaFile],
    annotations: Annotations,
    into: Path,
    *,
    fps: int,
    short_side: int,
    crop: int,
    jpeg_quality: int,
    backend: str,
    min_seconds: float,
    deadline_seconds: float,
    workers: int,
    engine: str = "local",
) -> pd.DataFrame:
    """Decodes clips into shards under `into`; finished shards are kept as they are.

    workers: processes of the local engine; engine ray takes the cores of its cluster.
    Returns: the content of `clips.csv`, one row a clip.
    """
    how = {
        "fps": fps,
        "short_side": short_side,
        "crop": crop,
        "jpeg_quality": jpeg_quality,
        "backend": backend,
        "min_seconds": min_seconds,
    }
    into = into.resolve()
    shards = [
        Shard(into / f"shard-{start // SHARD_CLIPS:05}.h5", files[start : start + SHARD_CLIPS])
        for start in range(0, len(files), SHARD_CLIPS)
    ]
    missing = [shard for shard in shards if not shard.path.exists()]
    decode = partial(_decode_shards, how=how, deadline_seconds=deadline_seconds)
    finished = (
        on_cluster(partial(decode, workers=1), [[shard] for shard in missing], into)
        if engine == "ray"
        else decode(missing, workers=workers)
    )
    for _ in progress(finished, "decode: shards", total=len(missing)):
        pass
    index = pd.concat([_shard_index(shard.path) for shard in shards], ignore_index=True)
    write_atomically(into / "clips.csv", index.to_csv(index=False))
    save_annotations(into / "annotations.json", annotations)
    made = {**how, "deadline_seconds": deadline_seconds}
    write_json(into / "store.json", {**made, "sample_rate": SAMPLE_RATE, "segments": SEGMENTS})
    return index


def media_files(media: Path, annotations: Annotations) -> list[MediaFile]:
    """The file of each annotated clip, as the manifest of `media` lists it."""
    manifest = pd.read_csv(
        expect_file(media / "manifest.csv", made_by="download"), dtype=str, keep_default_na=False
    )
    file_of = dict(zip(manifest["id"], manifest["file"], strict=True))
    return [
        MediaFile(id_, media.resolve() / file_of[id_] if id_ in file_of else None)
        for id_ in annotations.ids
    ]


def _decode_shards(
    shards: Sequence[Shard], how: dict[str, Any], deadline_seconds: float, workers: int
) -> Iterator[dict[str, str]]:
    """Decodes clips and writes shards; names each as soon as it is on the disk."""
    files = [file for shard in shards for file in shard.files]
    # Not fork: a worker inherits no threads and no open files. It imports no torch, so it is light.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPool(min(workers, max(1, len(files))), context=context)
    try:
        decoded = _in_order(pool, files, how, deadline_seconds, ahead=max(CLIPS_AHEAD, 2 * workers))
        for path, inside in shards:
            clips = list(islice(decoded, len(inside)))
            _write_shard(path, inside, clips, SEGMENTS * how["fps"])
            yield {"shard": path.name}
    finally:
        pool.stop()  # an interrupted run does not wait for the clips on their way
        pool.join()


def _in_order(
    pool: ProcessPool,
    files: Sequence[MediaFile],
    how: dict[str, Any],
    deadline_seconds: float,
    ahead: int,
) -> Iterator[CompressedClip | str]:
    """Each clip, or the reason why it is refused; `ahead` of them are on their way."""
    waiting: deque[ProcessFuture] = deque()
    for _, path in files:
        if len(waiting) == ahead:
            yield _outcome(waiting.popleft(), deadline_seconds)
        job = pool.schedule(_compress_clip, (path,), how, timeout=deadline_seconds)
        waiting.append(job)
    while waiting:
        yield _outcome(waiting.popleft(), deadline_seconds)


def _outcome(job: ProcessFuture, deadline_seconds: float) -> CompressedClip | str:
    try:
        return job.result()
    except UnusableClipError as error:
        return str(error)
    except FutureTimeoutError:
        return f"not decoded within {deadline_seconds:g} s"
    except ProcessExpired as error:
        return f"the decoder died of it (exit code {error.exitcode})"


def _compress_clip(path: Path | None, jpeg_quality: int, **options: Any) -> CompressedClip:
    if path is None:
        raise UnusableClipError("no such file")
    clip = decode_clip(path, seconds=SEGMENTS, **options)
    return CompressedClip(
        [_to_jpeg(frame, jpeg_quality) for frame in clip.frames],
        _to_int16(clip.sound),
        clip.picture_seconds,
        clip.sound_seconds,
    )


def _write_shard(
    target: Path,
    files: Sequence[MediaFile],
    clips: Sequence[CompressedClip | str],
    frame_count: int,
) -> None:
    """Writes some clips, or the reasons why they are refused, whole or not at all."""
    jpegs: list[bytes] = []
    offsets = np.zeros((len(files), frame_count + 1), np.int64)
    sound = np.zeros((len(files), SEGMENTS * SAMPLE_RATE), np.int16)
    reasons, seconds = [], np.zeros((len(files), 2))
    written = 0
    for row, clip in enumerate(clips):
        offsets[row] = written
        if isinstance(clip, str):
            reasons.append(clip)
            continue
        reasons.append("")
        offsets[row, 1:] += np.cumsum([len(jpeg) for jpeg in clip.jpegs])
        written = offsets[row, -1]
        jpegs += clip.jpegs
        sound[row] = clip.sound
        seconds[row] = clip.picture_seconds, clip.sound_seconds

    # In memory first: HDF5 crashes where the disk is full.
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["id"] = [name.id for name in files]
        file["usable"] = [not reason for reason in reasons]
        file["reason"] = reasons
        file["picture_seconds"], file["sound_seconds"] = seconds.T
        file["frame"] = np.frombuffer(b"".join(jpegs), np.uint8)
        file["frame_offset"] = offsets
        file.create_dataset("sound", data=sound, chunks=(1, sound.shape[1]))
    write_atomically(target, buffer.getbuffer())


def as_stored(
    frames: UInt8[np.ndarray, "n H W 3"], sound: Float32[np.ndarray, " S"], jpeg_quality: int
) -> tuple[UInt8[np.ndarray, "n H W 3"], Float32[np.ndarray, " S"]]:
    """What a store would give back of them: encoders are to see the same outside the pipeline."""
    seen = [_from_jpeg(_to_jpeg(frame, jpeg_quality)) for frame in frames]
    return np.stack(seen), _to_int16(sound).astype(np.float32) / SOUND_SCALE


def _to_int16(sound: Float32[np.ndarray, " S"]) -> Int16[np.ndarray, " S"]:
    return np.rint(np.clip(sound, -1, 1) * SOUND_SCALE).astype(np.int16)


def _to_jpeg(frame: UInt8[np.ndarray, "H W 3"], quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _shard_index(path: Path) -> pd.DataFrame:
    with h5py.File(path) as file:
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
            }
        )


class ClipStore:
    """Random access to the decoded clips."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if (folder / "labels.npy").exists():
            raise UserError(f"{folder}: holds labels and no clips, for source released has none")
        settings = json.loads(expect_file(folder / "store.json", made_by="decode").read_text())
        self.fps: int = settings["fps"]
        self.settings: dict[str, Any] = settings
        self.index = pd.read_csv(
            folder / "clips.csv", dtype={"id": str, "reason": str}, keep_default_na=False
        ).set_index("id")
        self._open: dict[str, h5py.File] = {}

    @cached_property
    def annotations(self) -> Annotations:
        """All samples, those of unusable clips too."""
        return load_annotations(self.folder / "annotations.json")

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """Height, width and colours of a frame."""
        return self.settings["crop"], self.settings["crop"], 3

    def fingerprint(self) -> str:
        """Hash over all of the store's files."""
        digest = hashlib.sha256()
        for path in sorted(self.folder.iterdir()):
            digest.update(f"{path.name} {sha256(path)}\n".encode())
        return digest.hexdigest()

    def usable(self, id_: str) -> bool:
        """Whether the clip could be decoded."""
        return bool(self.index.at[id_, "usable"])

    def frames(self, id_: str, which: Sequence[int] | None = None) -> UInt8[np.ndarray, "n H W 3"]:
        """RGB frames of a clip, all of them or those at the given places (fps a second)."""
        file, row = self._find(id_)
        offsets = file["frame_offset"][row]
        begin, end = offsets[0], offsets[-1]
        data = file["frame"][begin:end].tobytes()
        offsets = offsets - begin
        places = range(len(offsets) - 1) if which is None else which
        return np.stack([_from_jpeg(data[offsets[k] : offsets[k + 1]]) for k in places])

    def sound(self, id_: str) -> Float32[np.ndarray, "T S"]:
        """32 kHz sound of a clip in [-1, 1], one row a segment."""
        file, row = self._find(id_)
        return (file["sound"][row].astype(np.float32) / SOUND_SCALE).reshape(SEGMENTS, -1)

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
                # It closes when nobody reads from it any more, on another thread maybe.
                self._open.pop(next(iter(self._open)), None)
            file = self._open[name] = h5py.File(expect_file(self.folder / name, made_by="decode"))
        return file, int(entry["row"])


def _from_jpeg(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)
