"""The samples of one split, as batches on the device."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cace.features.store import FeatureStore

ROOM = 0.8  # share of a GPU's free memory that features may use
Silenced = Literal["visual", "audio"]
# Baselines that are trained with one modality silenced, by the name of their folder.
UNIMODAL: dict[str, Silenced] = {"visual_only": "audio", "audio_only": "visual"}


class TagsOnly(NamedTuple):
    """How a batch teaches where events are, if the tag of each clip is all that is known."""

    top: int  # segments that an event fills at least: k
    background: int  # clips without an event in the complete batch, mismatched ones included
    mismatched: bool  # whether these clips have the sound of others


class Batch(NamedTuple):
    """Some clips on the device, and two counts of the complete batch that they belong to.

    Under weak supervision, the labels have the tag of the clip in every segment.
    """

    visual: Float[Tensor, "b T H W V"]
    audio: Float[Tensor, "b T A"]
    labels: Int[Tensor, "b T"]  # category of each segment; C outside events
    clips: int  # of the complete batch, which may be computed in parts
    clips_with_event: int  # likewise
    tags_only: TagsOnly | None = None  # None: the labels are those of the segments


class Split:
    """The samples of one split: on a GPU if all of them fit, else mapped into memory.

    silenced: that modality is zero.
    """

    def __init__(
        self, store: FeatureStore, name: str, device: torch.device, silenced: Silenced | None = None
    ) -> None:
        self.store, self.device, self.silenced = store, device, silenced
        self.rows = store.rows(name)
        self.labels = store.labels[self.rows]
        visual, audio = store.visual, store.audio
        if silenced == "visual":
            # One position: a grid of equal positions attends to itself as a single one does.
            visual = np.zeros((*visual.shape[:2], 1, 1, visual.shape[-1]), visual.dtype)
        elif silenced == "audio":
            audio = np.zeros(audio.shape, audio.dtype)
        self.stored = visual, audio, store.labels
        size = len(self) * (visual[:1].nbytes + audio[:1].nbytes)
        self.resident = self._read(self.rows) if size < room(device) else None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def grid(self) -> tuple[int, int]:
        """H and W of the visual maps; 1 x 1 if vision is silenced."""
        return self.stored[0].shape[2], self.stored[0].shape[3]

    def batches(self, size: int) -> Iterator[Batch]:
        """All samples in their order; the last batch may be smaller."""
        for places in torch.arange(len(self)).split(size):
            yield self.batch(places)

    def shuffled(self, size: int, at_once: int) -> Iterator[Iterator[Batch]]:
        """All samples in random order, in complete batches, each of them as its parts.

        at_once: clips of a part.
        """
        for places in torch.randperm(len(self)).split(size):
            yield (self.batch(some, places) for some in places.split(at_once))

    def batch(self, places: Int[Tensor, " b"], complete: Int[Tensor, " B"] | None = None) -> Batch:
        """The samples at these places of the split.

        complete: places of the complete batch, if these are only a part of it.
        """
        visual, audio, labels = self.samples(places)
        complete = places if complete is None else complete
        has_event = (self.labels[complete.numpy()] != self.store.background).any(axis=1)
        return Batch(visual.float(), audio.float(), labels, len(complete), int(has_event.sum()))

    def samples(self, places: Int[Tensor, " b"]) -> tuple[Tensor, ...]:
        """Visual and audio features, in the store's precision, and labels."""
        if self.resident is None:
            return self._read(self.rows[places.numpy()])
        there = places.to(self.device)
        return tuple(data[there] for data in self.resident)

    def audio(self, places: Int[Tensor, " b"]) -> Tensor:
        """The second of `samples`; no visual features are read for it."""
        if self.resident is None:
            return self._on_device(self.stored[1], self.rows[places.numpy()])
        return self.resident[1][places.to(self.device)]

    def _read(self, rows: Int[np.ndarray, " b"]) -> tuple[Tensor, ...]:
        return tuple(self._on_device(data, rows) for data in self.stored)

    def _on_device(self, data: np.ndarray, rows: Int[np.ndarray, " b"]) -> Tensor:
        return torch.from_numpy(data[rows]).to(self.device)


def room(device: torch.device) -> float:
    """Bytes that features may use on a device; none on a CPU, which maps the file instead."""
    return ROOM * torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0.0
