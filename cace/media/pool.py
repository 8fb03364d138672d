"""Decodes many clips in processes, each clip with a deadline.

Each clip is decoded in a worker process. One that takes too long, or crashes its process, is
refused on its own: decoders hang and crash in native code, where Python can catch no exception.
"""

import multiprocessing
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from pebble import ProcessExpired, ProcessFuture, ProcessPool

from cace.conventions import SEGMENTS
from cace.data.annotations import Annotations, read_annotations, save_annotations
from cace.data.manifest import MANIFEST, read_manifest
from cace.media.decode import decode_clip
from cace.media.store import (
    BILINEAR,
    CompressedClip,
    Facts,
    Verdict,
    to_int16,
    to_jpeg,
    write_index,
    write_shard,
)
from cace.media.tracks import UnusableClipError, read_facts, refusing_failures
from cace.system.cluster import on_cluster
from cace.system.errors import UserError, listed
from cace.system.files import expect_file, publish, sha256, write_json
from cace.system.scratch import scratch
from cace.system.workers import progress

SHARD_CLIPS = 32  # clips of a shard
CLIPS_AHEAD = 2 * SHARD_CLIPS  # decoded ahead, or two a process if that is more: bounds the memory


class MediaFile(NamedTuple):
    """A clip and its file."""

    id: str
    path: Path | None  # None: the clip has no file


class Shard(NamedTuple):
    """A file of the store, and the clips that go into it."""

    path: Path
    files: Sequence[MediaFile]


def decode_media(
    media: Path,
    out: Path,
    metrics: Path,
    *,
    categories: tuple[str, ...] | None,
    max_bad_fraction: float,
    workers: int,
    engine: str,
    **settings: Any,
) -> None:
    """Decodes all clips of a media folder into a store, and counts those that cannot be used.

    metrics: the JSON file for the counts.
    categories: of the source, in the order of their labels; None: by first appearance.
    max_bad_fraction: a larger share of refused clips stops the run.
    settings: the other keywords of `decode_clips`.
    Raises: UserError with the refused clips and their reasons, if there are too many.
    """
    manifest = sha256(expect_file(media / MANIFEST, made_by="download"))
    annotations = read_annotations(media, categories)
    # Neither the engine nor the number of processes changes a result.
    with scratch("decode", manifest, annotations, settings) as work:
        clips = work / "clips"
        clips.mkdir(exist_ok=True)
        files = media_files(media, annotations)
        index = decode_clips(files, annotations, clips, **settings, workers=workers, engine=engine)
        bad = index[~index["usable"]]
        reasons = listed([f"{row.id}: {row.reason}" for row in bad.itertuples()])
        if len(bad) > max_bad_fraction * len(index):
            raise UserError(
                f"decode: {len(bad)} of {len(index)} clips cannot be used, and "
                f"decode.max_bad_fraction allows a share of {max_bad_fraction:g}:{reasons}\n"
                f"{clips / 'clips.csv'} lists them all. Fix or remove them, or allow more: the "
                f"same command then keeps what is decoded"
            )
        if len(bad):
            print(f"decode: left out {len(bad)} of {len(index)} clips:{reasons}")
        noted = index[index["remarks"] != ""]
        if len(noted):
            remarks = listed([f"{row.id}: {row.remarks}" for row in noted.itertuples()])
            print(f"decode: remarks on {len(noted)} of {len(index)} clips:{remarks}")
        counts = {
            "clips": len(index),
            "used": len(index) - len(bad),
            "refused": len(bad),
            "padded": int(index["padded"].sum()),
        }
        write_json(metrics, {"decode": counts})
        publish(clips, out)


def media_files(media: Path, annotations: Annotations) -> list[MediaFile]:
    """The file of each annotated clip, as the manifest of `media` lists it."""
    manifest = read_manifest(media)
    file_of = dict(zip(manifest["id"], manifest["file"], strict=True))
    return [
        MediaFile(id_, media.resolve() / file_of[id_] if id_ in file_of else None)
        for id_ in annotations.ids
    ]


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
    interpolation: str = BILINEAR,
    engine: str = "local",
) -> pd.DataFrame:
    """Decodes clips into shards under `into`; shards that exist already are kept.

    workers: processes of the local engine; engine ray uses the cores of its cluster.
    Returns: the content of `clips.csv`, one row per clip.
    """
    how = {
        "fps": fps,
        "short_side": short_side,
        "crop": crop,
        "interpolation": interpolation,
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
    save_annotations(into / "annotations.json", annotations)
    made = {**how, "deadline_seconds": deadline_seconds}
    return write_index(into, [shard.path for shard in shards], made)


def _decode_shards(
    shards: Sequence[Shard], how: dict[str, Any], deadline_seconds: float, workers: int
) -> Iterator[dict[str, str]]:
    """Decodes clips and writes shards; yields the name of each as soon as it is on the disk."""
    files = [file for shard in shards for file in shard.files]
    # Not fork: a worker inherits no threads and no open files. It imports no torch, so it is light.
    context = multiprocessing.get_context("spawn")
    count = min(workers, max(1, len(files)))
    pool = ProcessPool(count, initializer=_imported, context=context)
    try:
        decoded = _in_order(pool, files, how, deadline_seconds, ahead=max(CLIPS_AHEAD, 2 * workers))
        for path, inside in shards:
            verdicts = list(islice(decoded, len(inside)))
            write_shard(path, [file.id for file in inside], verdicts, SEGMENTS * how["fps"])
            yield {"shard": path.name}
    finally:
        pool.stop()  # an interrupted run does not wait for the clips in progress
        pool.join()


def _imported() -> None:
    """A worker that starts imports this module, to find this function.

    Otherwise it would do so within its first clip, while the others wait for it: Pebble's workers
    fetch one after another, and give up after two minutes.
    """


def _in_order(
    pool: ProcessPool,
    files: Sequence[MediaFile],
    how: dict[str, Any],
    deadline_seconds: float,
    ahead: int,
) -> Iterator[Verdict]:
    """What was found of each clip; up to `ahead` of them are in progress."""
    waiting: deque[ProcessFuture] = deque()
    for _, path in files:
        if len(waiting) == ahead:
            yield _outcome(waiting.popleft(), deadline_seconds)
        job = pool.schedule(judge_clip, (path,), how, timeout=deadline_seconds)
        waiting.append(job)
    while waiting:
        yield _outcome(waiting.popleft(), deadline_seconds)


def _outcome(job: ProcessFuture, deadline_seconds: float) -> Verdict:
    try:
        return job.result()
    except FutureTimeoutError:
        return Verdict(None, f"not decoded within {deadline_seconds:g} s")
    except ProcessExpired as error:
        return Verdict(None, f"the decoder crashed (exit code {error.exitcode})")


def judge_clip(path: Path | None, jpeg_quality: int, **options: Any) -> Verdict:
    """Decodes one clip, in a worker process, whatever its file is.

    path: None if the clip has no file.
    options: of `decode_clip`.
    """
    if path is None:
        return Verdict(None, "no such file")
    facts = Facts()
    try:
        with refusing_failures():
            facts = read_facts(path)
            clip = decode_clip(path, seconds=SEGMENTS, **options)
            compressed = CompressedClip(
                [to_jpeg(frame, jpeg_quality) for frame in clip.frames],
                to_int16(clip.sound),
                clip.picture_seconds,
                clip.sound_seconds,
            )
    except UnusableClipError as error:
        return Verdict(None, str(error), facts=facts)
    except SystemExit as error:  # of a library: it would end the run silently
        return Verdict(None, f"not decodable: unexpected SystemExit: {error}", facts=facts)
    return Verdict(compressed, "", clip.remarks, facts)
