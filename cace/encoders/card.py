"""Which encoder computed some features."""

from typing import Any, NamedTuple

from cace.encoders.audio import AudioEncoder
from cace.encoders.visual import VisualEncoder
from cace.encoders.weights import fingerprint


class EncoderCard(NamedTuple):
    """What identifies an encoder; part of a feature store's provenance."""

    name: str
    weights: str  # those that it started from: a name, a path, or none
    sha256: str  # of its weights as they are now
    finetuned_epochs: int | None = None  # None: an encoder that is never fine-tuned
    license: str | None = None  # of the weights that it started from, where it is known

    def as_json(self) -> dict[str, Any]:
        """The fields that have a value."""
        return {key: value for key, value in self._asdict().items() if value is not None}


def card_of(
    network: AudioEncoder | VisualEncoder,
    name: str,
    weights: str,
    finetuned_epochs: int | None = None,
) -> EncoderCard:
    """The card of a network that is loaded."""
    return EncoderCard(name, weights, fingerprint(network), finetuned_epochs, network.license)
