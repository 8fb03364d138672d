"""Features of one modality propagate to the segments of the other that they are similar to.

Source: PSP (Zhou et al. 2021), as its released code computes it.
"""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

from cace.localizers.parts.audio_guided_attention import xavier_linear

DROPOUT = 0.1

# From two sequences [B, T, D]: how similar each segment of the first is to each of the second.
Similarity = Callable[[Tensor, Tensor], Tensor]
# From similarities [B, T, T]: the weights of the connections that are kept; the rows sum to 1 or 0.
Keep = Callable[[Tensor], Tensor]


class Propagation(nn.Module):
    """Each segment gains the other modality's features of the segments that it is connected to.

    channels: of either modality.
    """

    def __init__(
        self, channels: int, similarity: Similarity, keep: Keep, norm_eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.similarity, self.keep = similarity, keep
        self.visual_source, self.visual_match = _branch(channels), _branch(channels)
        self.audio_match, self.audio_source = _branch(channels), _branch(channels)
        self.visual_out, self.audio_out = _branch(channels), _branch(channels)
        self.norm = nn.LayerNorm(channels, norm_eps)

    def forward(
        self, visual: Float[Tensor, "B T D"], audio: Float[Tensor, "B T D"]
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B T D"]]:
        """The visual and the audio segments, with what they gained."""
        similar = self.similarity(self.visual_match(visual), self.audio_match(audio))
        to_visual = self.keep(similar) @ self.audio_source(audio)
        to_audio = self.keep(similar.mT) @ self.visual_source(visual)
        return (
            self.norm(self.visual_out(visual + to_visual)),
            self.norm(self.audio_out(audio + to_audio)),
        )


def _branch(channels: int) -> nn.Sequential:
    linear = xavier_linear(channels, channels, bias=False)
    return nn.Sequential(linear, nn.ReLU(), nn.Dropout(DROPOUT))


def shares(weights: Float[Tensor, "... S"], eps: float = 1e-8) -> Float[Tensor, "... S"]:
    """Each row divided by its sum; a row of zeros stays one."""
    return weights / (weights.sum(dim=-1, keepdim=True) + eps)
