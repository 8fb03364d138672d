"""Encodes all segments of the decoded clips with both encoders, into a feature store."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float16, Float32, UInt8
from torch import Tensor, nn

from cace.conventions import SAMPLE_RATE, SEGMENTS
from cace.data.annotations import Annotations, clip_tags, segment_labels
from cace.encoders.audio import AudioEncoder
from cace.encoders.folding import fold_norms
from cace.encoders.visual import VisualEncoder
from cace.extraction.provenance import EncoderCards, Provenance, count_per_split
from cace.features.store import MAKE_AGAIN, create_store
from cace.media.store import ClipStore
from cace.system.cluster import on_cluster
from cace.system.device import choose_device
from cace.system.errors import UserError, listed
from cace.system.files import publish
from cace.system.hdf5 import open_hdf5
from cace.system.scratch import scratch
from cace.system.workers import progress, workers

Result = TypeVar("Result")
JOURNAL_CLIPS = 16  # clips between two writes to the disk: at most these are lost in a power cut


def encode(
    clips: ClipStore,
    annotations: Annotations,
    visual: VisualEncoder,
    audio: AudioEncoder,
    cards: EncoderCards,
    out: Path,
    *,
    batch_size: int,
    precision: str,
    grid: int | None,
    device: torch.device,
    engine: str,
    fold: bool = False,
    work_name: str = "extract",
    stage: str = "",
) -> None:
    """Writes a feature store of all clips; an interrupted run resumes.

    cards: of the two encoders, for the store's provenance.
    grid: positions on a side, to which maps are pooled; None: not pooled.
    fold: whether the encoders are folded, which changes them; see `fold_encoders`.
    work_name, stage: of the folder for half-done work; see `scratch`.
    """
    provenance = Provenance(
        cards,
        {**clips.settings, "precision": precision, "grid": grid, "fold": fold},
        clips.fingerprint(),
        count_per_split(row for row in annotations.rows if not clips.usable(row.id)),
    ).as_json()
    if fold:
        fold_encoders(visual, audio, clips.frame_shape)
    if precision == "bfloat16":
        round_weights(audio)
    # The batch size changes the last digits of a feature; the engine changes nothing.
    with scratch(work_name, provenance, batch_size, stage=stage) as work:
        extract_features(
            clips,
            annotations,
            visual.to(device),
            audio.to(device),
            work / "features.h5",
            batch_size=batch_size,
            precision=precision,
            grid=grid,
            device=device,
            provenance=provenance,
            engine=engine,
        )
        publish(work / "features.h5", out)


def extract_features(
    clips: ClipStore,
    annotations: Annotations,
    visual_encoder: VisualEncoder,
    audio_encoder: AudioEncoder,
    into: Path,
    *,
    batch_size: int,
    precision: str,
    device: torch.device,
    provenance: dict[str, Any],
    grid: int | None = None,
    engine: str = "local",
) -> None:
    """Encodes all usable clips into one store; resumes after an interruption.

    Only a few clips are in memory at a time. A clip counts as done only when it is on the disk.
    One that fails does not stop the others; on a cluster, it stops those that have not begun.
    device: of the local engine; with engine ray each process of the cluster chooses its own.
    The features of a clip that has two rows are stored for both.
    Raises: UserError with the clips that could not be encoded, and why.
    """
    rows = [i for i, row in enumerate(annotations.rows) if clips.usable(row.id)]
    if not rows:
        raise UserError(
            f"{clips.folder}: expected usable clips, got none of {len(annotations.ids)}"
        )
    places: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(annotations.rows[row].id, []).append(place)

    encoding = Encoding(visual_encoder, audio_encoder, batch_size, precision, grid)
    store, journal = into, into.with_suffix(".done")
    if not store.exists():
        journal.unlink(missing_ok=True)  # of a store that was finished and is gone
        blank = np.zeros((SEGMENTS, *clips.frame_shape), np.uint8)
        silence = np.zeros((SEGMENTS, SAMPLE_RATE), np.float32)
        one = encoding.encode(Decoded("", blank, silence), device)
        create_store(
            store,
            ids=[annotations.rows[row].id for row in rows],
            splits=[annotations.rows[row].split for row in rows],
            labels=(labels := segment_labels(annotations)[rows]),
            tags=clip_tags(labels, annotations.background),
            categories=annotations.categories,
            visual_shape=one.visual.shape,
            audio_shape=one.audio.shape,
            provenance=provenance,
        )
    # The journal lists the clips that are on the disk already.
    done = set(journal.read_text(encoding="utf-8").splitlines()) if journal.exists() else set()
    todo = [id_ for id_ in places if id_ not in done]
    if not todo:
        return  # DVC's cache may share this file: it must not be opened for writing
    encoded: Iterator[Encoded | Failed] = (
        _encode_on_cluster(clips, encoding, todo)
        if engine == "ray"
        else encoding.encode_all(clips, todo, device)
    )
    written: list[str] = []
    failures: list[str] = []
    with open_hdf5(store, MAKE_AGAIN, "r+") as file, journal.open("a", encoding="utf-8") as log:

        def keep() -> None:
            file.flush()
            os.fsync(file.id.get_vfd_handle())
            print(*written, sep="\n", file=log, flush=True)
            os.fsync(log.fileno())
            written.clear()

        for clip in progress(encoded, "extract: clips", total=len(todo)):
            if isinstance(clip, Failed):
                failures.append(f"{clip.id}: {clip.reason}")
                continue
            for place in places[clip.id]:
                file["visual"][place], file["audio"][place] = clip.visual, clip.audio
            written.append(clip.id)
            if len(written) == JOURNAL_CLIPS:
                keep()
        if written:
            keep()
    if failures:
        raise UserError(
            f"extract: {len(failures)} of {len(places)} clips could not be encoded:"
            f"{listed(failures)}\nIf a file in {clips.folder} is damaged, run "
            f"`dvc repro -f decode`. Otherwise run the same command again: it tries only these"
        )


def fold_encoders(visual: VisualEncoder, audio: AudioEncoder, frame_shape: tuple[int, ...]) -> None:
    """Folds batch normalisation into the convolutions of both encoders; see `fold_norms`.

    frame_shape: height, width and channels.
    """
    some = torch.Generator().manual_seed(0)
    fold_norms(visual, torch.randint(256, (1, *frame_shape), dtype=torch.uint8, generator=some))
    fold_norms(audio, torch.rand((1, SAMPLE_RATE), generator=some) - 0.5)


def round_weights(audio: AudioEncoder) -> None:
    """Rounds the weights that autocast would round anew for each clip; the features are the same.

    A visual encoder uses its weights for many more frames at once and gains nothing.
    """
    for layer in audio.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
            for weight in layer.parameters(recurse=False):
                weight.data = weight.data.bfloat16()


class Decoded(NamedTuple):
    """A clip of T segments, as encoders read it."""

    id: str
    frames: UInt8[np.ndarray, "F H W 3"]
    sound: Float32[np.ndarray, "T S"]


class Encoded(NamedTuple):
    """A clip's features."""

    id: str
    visual: Float16[np.ndarray, "T H W V"]
    audio: Float16[np.ndarray, "T A"]


class TooLargeError(UserError):
    """A feature that does not fit into the store's float16; the caller knows of which clip."""


class Failed(NamedTuple):
    """A clip that could not be read or encoded."""

    id: str
    reason: str


class Encoding(NamedTuple):
    """How clips become features."""

    visual_encoder: VisualEncoder
    audio_encoder: AudioEncoder
    batch_size: int  # frames
    precision: str
    grid: int | None = None  # positions on a side, to which maps are pooled

    def to(self, device: torch.device) -> "Encoding":
        """The same encoding, with its networks on `device`."""
        visual, audio = self.visual_encoder.to(device), self.audio_encoder.to(device)
        return self._replace(visual_encoder=visual, audio_encoder=audio)

    def encode_all(
        self, clips: ClipStore, ids: Sequence[str], device: torch.device
    ) -> Iterator[Encoded | Failed]:
        """Reads the next clips while one is encoded.

        The encoders run on the calling thread: only one thread reuses the memory that it frees.
        """
        # On a CPU the encoders fill all cores; a GPU would wait for a single reader.
        readers = 1 if device.type == "cpu" else workers()
        for clip in _read_ahead(clips, ids, readers):
            yield clip if isinstance(clip, Failed) else _try(clip.id, self.encode, clip, device)

    def encode(self, clip: Decoded, device: torch.device) -> Encoded:
        """One clip's features.

        Raises: TooLargeError, or UserError if a map is smaller than the grid.
        """
        visual = self.see(clip.frames, len(clip.sound), device)
        return Encoded(clip.id, visual, self.hear(clip.sound, device))

    def see(
        self, frames: UInt8[np.ndarray, "F H W 3"], segments: int, device: torch.device
    ) -> Float16[np.ndarray, "T h w V"]:
        """Visual features of the frames of these segments; see `encode`."""
        with torch.inference_mode(), _autocast(device, self.precision):
            images = torch.from_numpy(frames).to(device)
            maps = torch.cat([self.visual_encoder(some) for some in images.split(self.batch_size)])
        # The mean over a segment's frames, in float32: bfloat16 would lose its last digits.
        visual = maps.float().unflatten(0, (segments, -1)).mean(dim=1)
        if self.grid is not None:
            if self.grid > min(sides := visual.shape[2:]):
                raise UserError(
                    f"extract.grid: expected at most the sides of the encoder's map "
                    f"({sides[0]}×{sides[1]}), got {self.grid}"
                )
            visual = F.adaptive_avg_pool2d(visual, self.grid)
        return _to_float16(visual.permute(0, 2, 3, 1), "visual")

    def hear(
        self, sound: Float32[np.ndarray, "T S"], device: torch.device
    ) -> Float16[np.ndarray, "T A"]:
        """Audio features of consecutive segments; see `encode`."""
        with torch.inference_mode(), _autocast(device, self.precision):
            audio = self.audio_encoder(torch.from_numpy(sound).to(device))
        return _to_float16(audio.float(), "audio")


def _encode_on_cluster(clips: ClipStore, encoding: Encoding, ids: list[str]) -> Iterator[Encoded]:
    folder = clips.folder.resolve()
    blocks = [ids[start : start + JOURNAL_CLIPS] for start in range(0, len(ids), JOURNAL_CLIPS)]
    work = partial(_encode_there, folder, encoding.to(torch.device("cpu")))
    # As many threads a process as in this one: their number changes the last digit of a feature.
    return (Encoded(**row) for row in on_cluster(work, blocks, folder, cores=workers(), gpu=True))


def _encode_there(folder: Path, encoding: Encoding, ids: list[str]) -> Iterator[dict[str, Any]]:
    """In a process of the cluster: the features of some clips, as rows."""
    device = choose_device()
    for clip in encoding.to(device).encode_all(ClipStore(folder), ids, device):
        if isinstance(clip, Failed):
            raise UserError(f"extract: clip {clip.id}: {clip.reason}")
        yield clip._asdict()


def _try(id_: str, work: Callable[..., Result], *arguments: Any) -> Result | Failed:
    """The result, or why there is none."""
    try:
        return work(*arguments)
    except UserError as error:
        return Failed(id_, str(error))
    except Exception as error:  # of whatever library: it concerns this clip, not the others
        return Failed(id_, f"{type(error).__name__}: {error}")


def _read_ahead(clips: ClipStore, ids: Sequence[str], readers: int) -> Iterator[Decoded | Failed]:
    """Yields clips in order; each thread reads up to two ahead."""

    def read(id_: str) -> Decoded:
        return Decoded(id_, clips.frames(id_), clips.sound(id_))

    with ThreadPoolExecutor(readers) as threads:
        waiting: deque[Future[Decoded | Failed]] = deque()
        for id_ in ids:
            waiting.append(threads.submit(_try, id_, read, id_))
            if len(waiting) > 2 * readers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _autocast(device: torch.device, precision: str) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def _to_float16(features: Tensor, modality: str) -> Float[np.ndarray, "T ..."]:
    small = features.half()
    if not small.isfinite().all():
        raise TooLargeError(
            f"a feature of {features.abs().max().item():g} does not fit into float16 (at most "
            f"65504); are encoders.{modality}_weights those of encoders.{modality}?"
        )
    return small.cpu().numpy()
