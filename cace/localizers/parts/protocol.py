"""What a localizer is: everything outside of this package knows only what is defined here."""

from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cace.features.batches import Batch


class Sizes(NamedTuple):
    """The features and categories that a localizer is built for."""

    visual_channels: int
    audio_channels: int
    categories: int
    positions: int  # of the visual grid, H x W


class Localization(NamedTuple):
    """What a localizer predicts for B clips of T segments."""

    relevance: Float[Tensor, "B T"]  # logit: does the segment contain an event?
    class_logits: Float[Tensor, "B K C"]  # K = 1: one category for the clip; K = T: one per segment
    attention: Float[Tensor, "B T H W"] | None  # where sound guides vision to; sums to 1
    extra: dict[str, Tensor]  # what only the method's own losses and lanes read


def localization_of_scores(
    scores: Float[Tensor, "B T L"], attention: Float[Tensor, "B T H W"] | None
) -> Localization:
    """Of a head that scores every category and, last, the background, for each segment."""
    categories, background = scores[..., :-1], scores[..., -1]
    return Localization(
        relevance=categories.amax(dim=-1) - background,
        class_logits=categories,
        attention=attention,
        extra={"scores": scores},
    )


def full_precision(like: Tensor) -> torch.autocast:
    """Switches autocast off, on the device of a tensor.

    If training computes in bfloat16, it does so only for the visual grid, which is most of the
    arithmetic; a method computes the rest in full precision.
    """
    return torch.autocast(like.device.type, enabled=False)


def settings_of(arguments: dict[str, Any]) -> dict[str, Any]:
    """The settings among the arguments of a constructor: all but `self` and `sizes`.

    arguments: its `locals()`, before it has other variables.
    """
    return {k: v for k, v in arguments.items() if k not in ("self", "sizes", "__class__")}


class AuthorsFormat(NamedTuple):
    """What a checkpoint of a method's authors contains."""

    sizes: Sizes  # that it was trained for
    modules: dict[str, str]  # the name of each of our modules there
    unused: tuple[str, ...]  # beginnings of the keys that the authors' code never reads


class Localizer(nn.Module):
    """A method: its network, its losses and its decisions.

    A subclass passes the arguments of its constructor to this one as `settings`, so that a
    checkpoint can build it again.

    An event is a segment with sigmoid(relevance) above θ, and its category is the largest class
    logit. A 29-way head gives the best category minus the background as relevance; at θ = 0.5 that
    is exactly the largest of the 29 scores.
    """

    title: ClassVar[str]  # as people write it
    fixed_grid: ClassVar[bool] = False  # whether weights depend on the number of positions
    modalities: ClassVar[tuple[str, ...]] = ("visual", "audio")  # that it reads
    # On a CPU: of a batch, which is computed in parts whose activations stay in the CPU's caches.
    clips_at_once: ClassVar[int] = 8
    # What in it is a choice of ours, if its authors released no code; empty if they did.
    reconstruction: ClassVar[str] = ""
    # Entries of `extra`, [B, T] in (0, 1), that a timeline shows, with what they mean.
    lanes: ClassVar[dict[str, str]] = {}

    def __init__(self, sizes: Sizes, settings: dict[str, Any]) -> None:
        super().__init__()
        self.sizes, self.settings = sizes, settings

    @property
    def background(self) -> int:
        """Label of a segment without an event."""
        return self.sizes.categories

    def start_epoch(self, progress: float) -> None:
        """Called before each epoch of training.

        progress: share of the training that is done, from 0 to 1. A method that changes with it
            stores the change in a buffer, so that checkpoints contain it.
        """

    def losses(self, out: Localization, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Named, weighted terms of the loss; their sum is trained.

        A term is a sum over the clips of `batch` divided by the count of the complete batch: the
        parts of a batch add up to it.
        """
        raise NotImplementedError

    @classmethod
    def authors_format(
        cls, weights: dict[str, Tensor], settings: dict[str, Any]
    ) -> AuthorsFormat | None:
        """How the authors' checkpoints of this method are read; None if they cannot be.

        weights: by the authors' keys.
        settings: those given to the constructor, which the file does not contain.
        Raises: KeyError if the weights are of another network.
        """
        return None
