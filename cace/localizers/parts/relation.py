"""Relations over time, within one modality and across the two.

Source: CMRAN (Xu et al. 2020), as CACE-Net uses it in section 3.3: attention within each modality,
then from each modality to both, then an interaction block.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

HEADS = 4
DROPOUT = 0.1


def bidirectional_lstm(channels: int, hidden: int) -> nn.LSTM:
    """One layer over the segments; gives 2 x `hidden` channels."""
    return nn.LSTM(channels, hidden, batch_first=True, bidirectional=True)


class WithinModality(nn.Module):
    """Two transformer layers over the segments of one modality; they start with equal weights.

    hidden: channels inside the feed-forward layers.
    """

    def __init__(self, channels: int, dimensions: int, hidden: int) -> None:
        super().__init__()
        self.project = nn.Linear(channels, dimensions)
        layer = nn.TransformerEncoderLayer(
            dimensions, HEADS, dim_feedforward=hidden, dropout=DROPOUT, batch_first=True
        )
        self.layers = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)

    def forward(self, x: Float[Tensor, "B T X"]) -> Float[Tensor, "B T D"]:
        """Segments related to one another."""
        return self.layers(self.project(x))


class AcrossModalities(nn.Module):
    """The segments of one modality attend to those of both.

    hidden: channels inside the feed-forward layer.
    """

    def __init__(self, channels: int, dimensions: int, hidden: int) -> None:
        super().__init__()
        self.project = nn.Linear(channels, dimensions)
        self.attention = nn.MultiheadAttention(dimensions, HEADS, DROPOUT, batch_first=True)
        self.attention_norm = nn.LayerNorm(dimensions)
        self.feed_forward = nn.Sequential(
            nn.Linear(dimensions, hidden),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(hidden, dimensions),
        )
        self.feed_forward_norm = nn.LayerNorm(dimensions)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(
        self, x: Float[Tensor, "B T X"], other: Float[Tensor, "B T D"]
    ) -> Float[Tensor, "B T D"]:
        """other: the other modality, after `WithinModality`."""
        y = self.project(x)
        both = torch.cat([other, y], dim=1)
        attended, _ = self.attention(y, both, both, need_weights=False)
        y = self.attention_norm(y + self.dropout(attended))
        return self.feed_forward_norm(y + self.dropout(self.feed_forward(y)))


class Interaction(nn.Module):
    """The product of the two modalities attends to both.

    dropout: of the attention's weights.
    heads: of the attention.
    """

    def __init__(self, dimensions: int, dropout: float, heads: int = HEADS) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(dimensions, heads, dropout, batch_first=True)
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
