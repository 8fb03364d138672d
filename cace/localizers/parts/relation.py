"""Relations over time, within one modality and across the two.

Source: CACE-Net, section 3.3, after CMRAN (Xu et al. 2020): attention within each modality, then
from each modality to both, then an interaction block.
Differs, as the published results do: the cross-modal block's feed-forward is 512 wide, and two
interaction blocks follow one another.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

HEADS = 4
DROPOUT = 0.1


class WithinModality(nn.Module):
    """Two transformer layers over the segments of one modality; they start with equal weights."""

    def __init__(self, channels: int, dimensions: int) -> None:
        super().__init__()
        self.project = nn.Linear(channels, dimensions)
        layer = nn.TransformerEncoderLayer(
            dimensions, HEADS, dim_feedforward=1024, dropout=DROPOUT, batch_first=True
        )
        self.layers = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)

    def forward(self, x: Float[Tensor, "B T X"]) -> Float[Tensor, "B T D"]:
        """Segments related to one another."""
        return self.layers(self.project(x))


class AcrossModalities(nn.Module):
    """One modality's segments attend to the other's and their own."""

    def __init__(self, channels: int, dimensions: int) -> None:
        super().__init__()
        self.project = nn.Linear(channels, dimensions)
        self.attention = nn.MultiheadAttention(dimensions, HEADS, DROPOUT, batch_first=True)
        self.attention_norm = nn.LayerNorm(dimensions)
        self.feed_forward = nn.Sequential(
            nn.Linear(dimensions, 512), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(512, dimensions)
        )
        self.feed_forward_norm = nn.LayerNorm(dimensions)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(
        self, x: Float[Tensor, "B T X"], other: Float[Tensor, "B T D"]
    ) -> Float[Tensor, "B T D"]:
        """other: the other modality, already related within itself."""
        y = self.project(x)
        both = torch.cat([other, y], dim=1)
        attended, _ = self.attention(y, both, both, need_weights=False)
        y = self.attention_norm(y + self.dropout(attended))
        return self.feed_forward_norm(y + self.dropout(self.feed_forward(y)))


class Interaction(nn.Module):
    """The product of the two modalities attends to both."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(dimensions, HEADS, dropout=0.2, batch_first=True)
        self.norm = nn.LayerNorm(dimensions)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(
        self, first: Float[Tensor, "B T D"], second: Float[Tensor, "B T D"]
    ) -> Float[Tensor, "B T D"]:
        """Not symmetric: `second` comes first in time among the keys."""
        product = first * second
        both = torch.cat([second, first], dim=1)
        attended, _ = self.attention(product, both, both, need_weights=False)
        return self.norm(product + self.dropout(attended))
