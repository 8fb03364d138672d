"""The train split for weak supervision: one tag for each clip, and no segment labels.

Source: ours (docs/weak.md). That vision and sound of two clips of different categories show no
event is the task's own definition (CACE-Net, section 3.1).
"""

import copy
import math
from collections.abc import Iterator
from itertools import chain

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from cace.features.batches import Batch, Split, TagsOnly
from cace.features.store import BACKGROUND, FeatureStore
from cace.system.errors import UserError


class TaggedSplit(Split):
    """The train split; every segment of a clip is labelled with the tag of the clip.

    Clips of the store's split `background` are in it too.

    top: the smallest share of a clip that an event fills.
    mismatch: mismatched pairs for each clip of a batch, in [0, 1].
    Raises: UserError if no clip and no pair could teach what background is.
    """

    def __init__(
        self, store: FeatureStore, device: torch.device, *, top: float, mismatch: float
    ) -> None:
        super().__init__(_tagged(store), "train", device)
        self.tags = torch.from_numpy(self.labels[:, 0])
        self.top = max(1, math.ceil(top * self.labels.shape[1] - 1e-9))
        self.mismatch = mismatch
        tags = len(self.tags.unique())
        if not mismatch and not (self.tags == store.background).any():
            raise UserError(
                f"{store.path}: no clip of train is without an event, and there are no mismatched "
                f"pairs (weak.mismatch is 0, or weak.form is released), so nothing would teach "
                f"what background is; add clips without an event, or set weak.form: common and a "
                f"larger weak.mismatch"
            )
        if mismatch and tags < 2:
            raise UserError(
                f"{store.path}: all clips of train have the same tag, so no pair of vision and "
                f"sound is mismatched; add clips of other categories"
            )

    def shuffled(self, size: int, at_once: int) -> Iterator[Iterator[Batch]]:
        """All clips in random order, in complete batches that end with their mismatched pairs."""
        for places in torch.randperm(len(self)).split(size):
            vision = places[: round(self.mismatch * len(places))]
            yield self._parts(places, vision, self._other_sounds(vision), at_once)

    def _parts(
        self,
        places: Int[Tensor, " B"],
        vision: Int[Tensor, " M"],
        sounds: Int[Tensor, " M"],
        at_once: int,
    ) -> Iterator[Batch]:
        without_event = int((self.tags[places] == self.store.background).sum())
        known = TagsOnly(self.top, without_event + len(vision), mismatched=False)
        clips = (
            self.batch(some, places)._replace(tags_only=known) for some in places.split(at_once)
        )
        pairs = (
            self._pairs(seen, heard, places, known._replace(mismatched=True))
            for seen, heard in zip(vision.split(at_once), sounds.split(at_once), strict=True)
            if len(seen)
        )
        return chain(clips, pairs)

    def _pairs(
        self,
        vision: Int[Tensor, " b"],
        sounds: Int[Tensor, " b"],
        places: Int[Tensor, " B"],
        known: TagsOnly,
    ) -> Batch:
        batch = self.batch(vision, places)
        background = torch.full_like(batch.labels, self.store.background)
        audio = self.audio(sounds).float()
        return batch._replace(audio=audio, labels=background, tags_only=known)

    def _other_sounds(self, vision: Int[Tensor, " M"]) -> Int[Tensor, " M"]:
        """For each of these clips a random clip of the split that has another tag."""
        other = self.tags[vision].unsqueeze(1) != self.tags
        return other.double().multinomial(1).squeeze(1) if len(vision) else vision


def _tagged(store: FeatureStore) -> FeatureStore:
    view = copy.copy(store)
    view.labels = np.repeat(store.tags[:, None], store.labels.shape[1], axis=1)
    view.splits = np.where(store.splits == BACKGROUND, "train", store.splits)
    return view
