"""Audio-guided channel and spatial attention of CMRAN, which CMBS, CACE-Net and CSS-Net use too.

Source: CMRAN (Xu et al. 2020), as its released code computes it. CMBS and CACE-Net compute the
channel attention from the self-attended grid.
"""

from jaxtyping import Float
from torch import Tensor, nn

DROPOUT = 0.2


def visual_input(channels: int, width: int) -> nn.Sequential:
    """The layer in front of the attention in CMRAN, CMBS and CACE-Net."""
    return nn.Sequential(nn.Linear(channels, width), nn.ReLU(), nn.Dropout(DROPOUT))


class ChannelAttention(nn.Module):
    """Which visual channels fit the sound: the grid is multiplied by 1 to 2 in each channel."""

    def __init__(self, channels: int, audio_channels: int) -> None:
        super().__init__()
        self.from_visual = nn.Linear(channels, channels)
        self.from_audio = nn.Linear(audio_channels, channels)
        self.bottleneck = nn.Linear(channels, channels // 2)
        self.expand = nn.Linear(channels // 2, channels)

    def forward(
        self,
        grid: Float[Tensor, "N P V"],
        context: Float[Tensor, "N P V"],
        audio: Float[Tensor, "N A"],
    ) -> Float[Tensor, "N P V"]:
        """context: the self-attended grid, which the attention is computed from."""
        # The audio factor is the same at every position: the mean can be taken without it. A sum,
        # divided afterwards, as the gradient of `mean` is divided at every position.
        summary = self.from_visual(context).relu().sum(dim=1) / context.shape[1]
        matched = self.from_audio(audio).relu() * summary
        attention = self.expand(self.bottleneck(matched).relu()).sigmoid()
        return grid * (1 + attention.unsqueeze(1))


class SpatialAttention(nn.Module):
    """Where in the grid the sound comes from."""

    def __init__(self, channels: int, audio_channels: int) -> None:
        super().__init__()
        self.from_visual = nn.Linear(channels, channels // 2)
        self.from_audio = nn.Linear(audio_channels, channels // 2)
        self.score = nn.Linear(channels // 2, 1)

    def forward(
        self, grid: Float[Tensor, "N P V"], audio: Float[Tensor, "N A"]
    ) -> Float[Tensor, "N P 1"]:
        """Weights over the positions, adding up to 1."""
        # The audio factor is the same at every position: it can multiply the weights of the score.
        weights = self.score.weight * self.from_audio(audio).relu().unsqueeze(1)  # [N, 1, V / 2]
        score = self.from_visual(grid).relu() @ weights.mT + self.score.bias
        return score.tanh().softmax(dim=1)


def weighted_sum(
    weights: Float[Tensor, "N P 1"], grid: Float[Tensor, "N P V"]
) -> Float[Tensor, "N V"]:
    """One vector per grid: its mean under these weights."""
    return (weights.mT @ grid).squeeze(1)


def audio_guided_mean(
    grid: Float[Tensor, "N P V"],
    context: Float[Tensor, "N P V"],
    audio: Float[Tensor, "N A"],
    channel_attention: ChannelAttention,
    spatial_attention: SpatialAttention,
) -> tuple[Float[Tensor, "N V"], Float[Tensor, "N P"]]:
    """One vector per grid, after attention to its channels, then to its positions.

    Returns: the vector, and the weights of the positions.
    """
    grid = channel_attention(grid, context, audio)
    where = spatial_attention(grid, audio)
    return weighted_sum(where, grid), where.squeeze(-1)
