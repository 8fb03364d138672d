"""Where the features of a store come from: its attribute `provenance`."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from cace.conventions import SPLITS
from cace.data.annotations import Row
from cace.encoders.card import EncoderCard


class EncoderCards(NamedTuple):
    """The two encoders behind a store."""

    visual: EncoderCard
    audio: EncoderCard

    def as_json(self) -> dict[str, Any]:
        """Each card under the name of its modality."""
        return {modality: card.as_json() for modality, card in self._asdict().items()}


class Provenance(NamedTuple):
    """All that the content of a store depends on, except the code."""

    encoders: EncoderCards
    settings: dict[str, Any]  # of decoding, and the precision of the encoders
    clips_sha256: str  # of data/clips: clips and annotations, or annotations and released labels
    left_out: dict[str, int]  # samples of each split without a usable clip

    def as_json(self) -> dict[str, Any]:
        """Plain JSON, as the store contains it."""
        return {**self._asdict(), "encoders": self.encoders.as_json()}


def count_per_split(rows: Iterable[Row]) -> dict[str, int]:
    """How many of these rows each split has."""
    counts = Counter(row.split for row in rows)
    return {split: counts[split] for split in SPLITS}
