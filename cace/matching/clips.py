"""The clips of a feature store as matchers read them."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cace.features.store import FeatureStore
from cace.matching.protocol import Channels
from cace.system.workers import progress

CLIPS_AT_ONCE = 64  # so many grids are in memory


class Clips(NamedTuple):
    """Some samples of a feature store, on the device."""

    visual: Float[Tensor, "n T V"]  # mean over the grid
    audio: Float[Tensor, "n T A"]
    event: Bool[Tensor, "n T"]

    @property
    def channels(self) -> Channels:
        """Channels of the features."""
        return Channels(self.visual.shape[-1], self.audio.shape[-1])


def read_clips(
    store: FeatureStore, rows: Int[np.ndarray, " n"], device: torch.device, what: str
) -> Clips:
    """The samples in these rows of a store.

    what: names them on the progress bar.
    """
    blocks = np.split(rows, range(CLIPS_AT_ONCE, len(rows), CLIPS_AT_ONCE))
    visual = [
        store.visual[block].astype(np.float32).mean(axis=(2, 3))
        for block in progress(blocks, f"{what}: blocks of clips read")
    ]
    return Clips(
        torch.from_numpy(np.concatenate(visual)).to(device),
        torch.from_numpy(store.audio[rows].astype(np.float32)).to(device),
        torch.from_numpy(store.labels[rows] != store.background).to(device),
    )
