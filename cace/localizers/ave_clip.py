"""AVE-CLIP (Mahmud and Marculescu, WACV 2023) with VGG features. A reconstruction."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cace.features.batches import Batch
from cace.localizers.parts.audio_guided_attention import AudioGuidedAttention
from cace.localizers.parts.losses import two_heads
from cace.localizers.parts.protocol import (
    Localization,
    Localizer,
    Sizes,
    full_precision,
    settings_of,
)

WINDOWS = (2, 5, 10)  # segments
HEADS = 4
DROPOUT = 0.1


class AveClip(Localizer):
    """AVE-CLIP on stored features: attention in windows of several lengths, then refinement.

    width: channels of a segment; the feed-forward layers have four times as many.
    smooth: at test, a run of one segment between two equal ones takes their value.

    Source: AVE-CLIP's abstract and introduction: a multi-window temporal transformer that attends
    over time and over features, temporal refinement guided by the events, and post-processing.
    Differs, being a reconstruction: window lengths, dimensions, depth, fusion, losses and the rule
    of the post-processing; the attention over the grid is AVEL's; no contrastive stage of AudioCLIP
    and no training phases.
    """

    title = "AVE-CLIP"
    fixed_grid = True
    reconstruction = (
        "windows, dimensions, depth, fusion, losses, post-processing and the optimizer are free "
        "choices; without the AudioCLIP stage; no code was released"
    )

    def __init__(self, sizes: Sizes, *, width: int = 256, smooth: bool = False) -> None:
        super().__init__(sizes, settings_of(locals()))
        self.smooth = smooth
        self.attention = AudioGuidedAttention(
            sizes.visual_channels, sizes.audio_channels, sizes.positions, hidden=2 * width
        )
        self.project = nn.Linear(sizes.visual_channels + sizes.audio_channels, width)
        self.windows = nn.ModuleList(WindowBlock(width, length) for length in WINDOWS)
        self.fuse = nn.Linear(len(WINDOWS) * width, width)
        self.relevance_head = nn.Linear(width, 1)
        self.refine = nn.TransformerEncoderLayer(
            width, HEADS, dim_feedforward=4 * width, dropout=DROPOUT, batch_first=True
        )
        self.class_head = nn.Linear(width, sizes.categories)

    def forward(
        self, visual: Float[Tensor, "B T H W V"], audio: Float[Tensor, "B T A"]
    ) -> Localization:
        """Features as they are stored."""
        attended = self.attention(visual, audio)
        with full_precision(audio):
            both = torch.cat([attended.visual.to(audio.dtype), audio], dim=-1)
            segments = self.project(both).relu()
            fused = self.fuse(torch.cat([block(segments) for block in self.windows], dim=-1))
            relevance = self.relevance_head(fused).squeeze(-1)
            refined = self.refine(fused * (1 + relevance.sigmoid().unsqueeze(-1)))
            class_logits = self.class_head(refined.amax(dim=1)).unsqueeze(1)
        if self.smooth and not self.training:
            relevance = smoothed(relevance)
        return Localization(relevance, class_logits, attended.attention, extra={})

    def losses(self, out: Localization, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Of the two heads."""
        return two_heads(out, batch, self.background)


class WindowBlock(nn.Module):
    """A transformer layer inside windows of some segments, over their time and their channels.

    length: of a window, in segments. Windows do not overlap; the last one is padded with zeros.
    """

    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        self.length = length
        self.over_time = nn.MultiheadAttention(width, HEADS, dropout=DROPOUT, batch_first=True)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.attention_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(4 * width, width),
        )
        self.feed_forward_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, segments: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Segments related to those of their window."""
        clips, count, width = segments.shape
        padded = F.pad(segments, (0, 0, 0, -count % self.length))
        x = padded.reshape(-1, self.length, width)
        over_time, _ = self.over_time(x, x, x, need_weights=False)
        x = self.attention_norm(x + self.dropout(over_time) + self.dropout(self._over_channels(x)))
        x = self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))
        return x.reshape(clips, -1, width)[:, :count]

    def _over_channels(self, x: Float[Tensor, "N L D"]) -> Float[Tensor, "N L D"]:
        """Each channel is a mean of all channels, weighted by how alike they are in the window."""
        query, key, value = self.query(x), self.key(x), self.value(x)
        attention = (query.mT @ key / self.length**0.5).softmax(dim=-1)  # [N, D, D]
        return (attention @ value.mT).mT


def smoothed(relevance: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """A segment between two equal ones takes their value, from left to right.

    The median of three logits does this for every threshold: two equal neighbours decide, and
    between unequal ones a segment keeps its own side.
    """
    segments = list(relevance.unbind(dim=1))
    for t in range(1, len(segments) - 1):
        segments[t] = torch.stack(segments[t - 1 : t + 2]).median(dim=0).values
    return torch.stack(segments, dim=1)
