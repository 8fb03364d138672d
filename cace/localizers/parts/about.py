"""What a checkpoint of ours contains about its training, checked as the settings of a run are.

A checkpoint may come from anybody: its values choose how much memory is used, which files are
read, and what is printed.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field

from cace.features.batches import Silenced
from cace.localizers.parts.protocol import Sizes
from cace.settings import (
    AudioEncoderName,
    Count,
    Epochs,
    FramesParams,
    Precision,
    Section,
    Seed,
    Share,
    Source,
    Supervision,
    VisualEncoderName,
    check_some,
)
from cace.system.errors import UserError


def _is_printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("expected text without control characters")
    return text


Name = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_is_printable)]


class SizesOfFile(Section):
    """The features and categories that a localizer was built for."""

    visual_channels: Count
    audio_channels: Count
    categories: Count
    positions: Count


class Frames(FramesParams):
    """How the clips were decoded and encoded, as the feature store has it."""

    model_config = ConfigDict(extra="allow")

    precision: Precision
    grid: Count | None = None  # positions on a side, to which maps were pooled
    fold: bool = False


class Card(Section):
    """An encoder; see cace/encoders/card.py."""

    weights: Name
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    finetuned_epochs: Epochs
    license: Name | None = None


class VisualCard(Card):
    """The visual encoder."""

    name: VisualEncoderName


class AudioCard(Card):
    """The audio encoder."""

    name: AudioEncoderName


class Encoders(Section):
    """Both encoders; neither if they are not known."""

    visual: VisualCard
    audio: AudioCard


class About(Section):
    """All that a file may contain about its training."""

    model_config = ConfigDict(extra="allow")  # whatever a later version records

    source: Source
    categories: list[Name]
    trained_categories: list[Name]
    encoders: Encoders
    frames: Frames
    grid: Annotated[list[Count], Field(min_length=2, max_length=2)]
    segments: Count
    seed: Seed
    silenced: Silenced | None
    supervision: Supervision
    epoch: Epochs
    chosen_on: Literal["val", "test"]
    accuracy: Share


def check_about(about: dict[str, Any], sizes: Sizes, where: str) -> None:
    """Checks what a file contains; anything may be missing.

    Raises: UserError that names `where` and each wrong value.
    """
    check_some(About, about, f"{where}, about")
    categories = about.get("categories")
    if categories is not None and len(set(categories)) != sizes.categories:
        raise UserError(
            f"{where}: expected the names of its {sizes.categories} categories, got "
            f"{len(set(categories))} different ones"
        )
    if strange := set(about.get("trained_categories", ())) - set(categories or ()):
        raise UserError(f"{where}: was trained on {sorted(strange)[:3]}, which it does not know")
