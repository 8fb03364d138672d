"""Audio-guided visual attention of AVEL, which PSP and others use too."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from cace.localizers.parts.protocol import Sizes


class Attended(NamedTuple):
    """One visual vector per segment, and where in the grid it comes from."""

    visual: Float[Tensor, "B T V"]
    attention: Float[Tensor, "B T H W"]  # sums to 1


class AudioGuidedAttention(nn.Module):
    """A mean over the grid, weighted by what the sound and each position have in common.

    positions: of the grid. It is also the number of hidden channels, as the released code adds the
        j-th audio value to *position* j, the same in all hidden channels. In this way sound shifts
        positions by a learned prior.
    hidden: channels in which the two modalities are compared.

    Source: AVEL (Tian et al. 2018), as its released code computes it; all published figures do.
    Differs from the adaptive attention that the paper follows, which adds the audio value to hidden
    channel j at all positions.
    """

    def __init__(
        self, visual_channels: int, audio_channels: int, positions: int, hidden: int
    ) -> None:
        super().__init__()
        self.audio = xavier_linear(audio_channels, hidden)
        self.visual = xavier_linear(visual_channels, hidden)
        self.from_visual = xavier_linear(hidden, positions, bias=False)
        self.from_audio = xavier_linear(hidden, positions, bias=False)
        self.score = xavier_linear(positions, 1, bias=False)

    def forward(
        self, visual: Float[Tensor, "B T H W V"], audio: Float[Tensor, "B T A"]
    ) -> Attended:
        """The attended vector is a mean of the input features."""
        grid = visual.flatten(2, 3)  # [B, T, P, V]
        shift = self.from_audio(self.audio(audio).relu())  # [B, T, P]
        content = self.from_visual(self.visual(grid).relu())  # [B, T, P, P]
        weights = self.score((content + shift.unsqueeze(-1)).tanh()).softmax(dim=2)
        attended = (weights.mT @ grid).squeeze(2)
        return Attended(attended, weights.view(visual.shape[:-1]))


def xavier_linear(channels: int, outputs: int, bias: bool = True) -> nn.Linear:
    """A linear layer with the initial weights that AVEL and PSP give to most of theirs."""
    layer = nn.Linear(channels, outputs, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    return layer


# For each module its name in the checkpoints of AVEL and PSP.
AUTHORS_MODULES = {
    "attention.audio": "affine_audio",
    "attention.visual": "affine_video",
    "attention.from_visual": "affine_v",
    "attention.from_audio": "affine_g",
    "attention.score": "affine_h",
}


def authors_sizes(weights: dict[str, Tensor], *, sound: str, attention: str = "") -> Sizes:
    """Sizes that a checkpoint of AVEL or PSP was trained for.

    sound: the key of the first layer that reads the sound.
    attention: the beginning of the keys of this attention.
    """
    return Sizes(
        visual_channels=weights[f"{attention}affine_video.weight"].shape[1],
        audio_channels=weights[sound].shape[1],
        categories=len(weights["L2.weight"]) - 1,
        positions=weights[f"{attention}affine_h.weight"].shape[1],
    )
