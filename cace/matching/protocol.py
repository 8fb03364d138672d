"""A matcher: a model that finds the window of one modality that belongs to one of the other."""

from typing import ClassVar, Literal, NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor, nn

Modality = Literal["visual", "audio"]


class Channels(NamedTuple):
    """The features that a matcher reads; visual ones are means over the grid."""

    visual: int
    audio: int


class Matcher(nn.Module):
    """A model that scores how well windows of one modality fit a window of the other."""

    title: ClassVar[str]  # as people write it
    by_segment: ClassVar[bool]  # trained on single segments; otherwise on complete clips
    # What in it is a choice of ours, if its authors released no code; empty if they did.
    reconstruction: ClassVar[str] = ""
    fit_means: ClassVar[str]  # what the fit of a window is, and in which direction

    def __init__(self, channels: Channels) -> None:
        super().__init__()
        self.channels = channels

    def loss(
        self,
        visual: Float[Tensor, "B T V"],
        audio: Float[Tensor, "B T A"],
        event: Bool[Tensor, "B T"],
    ) -> Float[Tensor, ""]:
        """The mean loss over B clips with synchronous features; T = 1 if trained by segments."""
        raise NotImplementedError

    def fits(
        self, given: Float[Tensor, "L G"], searched: Float[Tensor, "S K"], modality: Modality
    ) -> Float[Tensor, " W"]:
        """How well each of the W = S - L + 1 windows of the other modality fits; higher is better.

        given: the L segments of the event in `modality`.
        searched: all S segments of the other modality.
        Returns: the mean over the L segments of a window.
        """
        raise NotImplementedError
