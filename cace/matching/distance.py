"""AVEL's distance model for cross-modality localization (Tian et al., ECCV 2018): AVDLN."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from cace.matching.protocol import Channels, Matcher, Modality

HIDDEN, COMMON = 128, 64  # channels of the hidden layers, and of the space of both modalities
MARGIN = 2.0  # at this distance or more, a pair without an event costs nothing
NEAREST = 1e-7  # the smallest squared distance: the gradient of its root is still finite


class Distance(Matcher):
    """Maps both modalities of a segment into one space, where an event's segments are near.

    Trained on synchronous pairs alone: those of the event are drawn together, those of the
    background apart. It never sees picture and sound of different times or clips.

    Source: AVE (Tian et al. 2018), section 4.3, and its released code.
    """

    title = "AVDLN"
    by_segment = True
    fit_means = "minus the mean distance of its segments; 0 is the best"

    def __init__(self, channels: Channels) -> None:
        super().__init__(channels)
        self.visual = _map(channels.visual)
        self.audio = _map(channels.audio)

    def distances(
        self, visual: Float[Tensor, "*n V"], audio: Float[Tensor, "*n A"]
    ) -> Float[Tensor, "*n"]:
        """The distance of each pair of segments; at least the root of 1e-7."""
        return _distances(self.visual(visual), self.audio(audio))

    def loss(
        self,
        visual: Float[Tensor, "B T V"],
        audio: Float[Tensor, "B T A"],
        event: Bool[Tensor, "B T"],
    ) -> Float[Tensor, ""]:
        """The contrastive loss of synchronous pairs, a mean over them."""
        distance = self.distances(visual, audio)
        apart = (MARGIN - distance).clamp(min=0)
        return torch.where(event, distance**2, apart**2).mean()

    def fits(
        self, given: Float[Tensor, "L G"], searched: Float[Tensor, "S K"], modality: Modality
    ) -> Float[Tensor, " W"]:
        """Compares the segments of a window with the given ones, in order."""
        maps = (self.audio, self.visual) if modality == "audio" else (self.visual, self.audio)
        of_given, of_searched = maps[0](given), maps[1](searched)
        windows = of_searched.unfold(0, len(given), 1).mT  # [W, L, 64]
        return -_distances(windows, of_given).mean(dim=-1)


def _map(channels: int) -> nn.Sequential:
    first, second = nn.Linear(channels, HIDDEN), nn.Linear(HIDDEN, COMMON)
    for linear in (first, second):
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
    return nn.Sequential(first, nn.LeakyReLU(0.3), second)


def _distances(one: Float[Tensor, "*#n D"], other: Float[Tensor, "*#n D"]) -> Float[Tensor, "*n"]:
    return (one - other).square().sum(dim=-1).clamp(min=NEAREST).sqrt()
