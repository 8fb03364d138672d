"""The samples of one split, as batches on the device."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cace.features.store import FeatureStore

ROOM = 0.8  # share of a GPU's free memory that features may take
Silenced = Literal["visual", "audio"]


class Clips(NamedTuple):
    """A batch of samples on the device."""

    visual: Float[Tensor, "B T H W V"]
    audio: Float[Tensor, "B T A"]
    labels: Int[Tensor, "B T"]


class Split:
    """The samples of one split: whole on a GPU where they fit, else mapped into memory.

    silenced: that modality is zero.
    """

    def __init__(
        self, store: FeatureStore, name: str, device: torch.device, silenced: Silenced | None = None
    ) -> None:
        self.store, self.device = store, device
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

    def batches(self, size: int) -> Iterator[Clips]:
        """All samples in their order; the last batch may be smaller."""
        for places in torch.arange(len(self)).split(size):
            yield self.clips(places)

    def clips(self, places: Int[Tensor, " b"]) -> Clips:
        """The samples at these places of the split."""
        if self.resident is None:
            visual, audio, labels = self._read(self.rows[places.numpy()])
        else:
            there = places.to(self.device)
            visual, audio, labels = (data[there] for data in self.resident)
        return Clips(visual.float(), audio.float(), labels)

    def _read(self, rows: Int[np.ndarray, " b"]) -> tuple[Tensor, ...]:
        """Visual and audio features, in the store's precision, and labels."""
        return tuple(torch.from_numpy(data[rows]).to(self.device) for data in self.stored)


def room(device: torch.device) -> float:
    """Bytes that features may take on a device; none on a CPU, which maps the file instead."""
    return ROOM * torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0.0
