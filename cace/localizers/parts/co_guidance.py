"""Audio-visual co-guidance attention (AVCA), Eq. 1-6: sound guides vision, and vision guides sound.

Source: CACE-Net, section 3.2. Differs from the paper's text, as the published results do: the
visual grid is summarised by two self-attentions, one for each direction of guidance, and
self-attention is followed by a residual, dropout and a layer norm.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cace.localizers.parts.spatial_channel_attention import (
    ChannelAttention,
    SpatialAttention,
    audio_guided_mean,
    weighted_sum,
)
from cace.settings import Guidance

DROPOUT = 0.2


class Guided(NamedTuple):
    """One visual and one audio vector per segment, after guidance."""

    visual: Float[Tensor, "B T V"]
    audio: Float[Tensor, "B T A"]
    attention: Float[Tensor, "B T H W"] | None  # where sound guides vision to; sums to 1


class SelfAttention(nn.Module):
    """Positions attend to one another by unscaled dot product (Eq. 3 and 4)."""

    def __init__(self, channels: int, query_channels: int) -> None:
        super().__init__()
        self.query = nn.Linear(channels, query_channels)
        self.key = nn.Linear(channels, query_channels)
        self.value = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Float[Tensor, "N P D"], norm: nn.LayerNorm) -> Float[Tensor, "N P D"]:
        """norm: an argument, as the two visual self-attentions share one."""
        query, key, value = _at_once(x, self.query, self.key, self.value)
        attention = (query @ key.mT).softmax(dim=-1)
        return norm(x + self.dropout(attention @ value))


def _at_once(x: Float[Tensor, "N P D"], *maps: nn.Linear) -> tuple[Tensor, ...]:
    """Several linear maps as one product: x is read, and its gradient written, only once."""
    weight = torch.cat([each.weight for each in maps])
    bias = torch.cat([each.bias for each in maps])
    return F.linear(x, weight, bias).split([each.out_features for each in maps], dim=-1)


class Calibration(nn.Module):
    """One vector for the complete grid of a segment, which calibrates the guided one (Eq. 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // 2)
        self.position = nn.Linear(channels, channels // 2)
        self.score = nn.Linear(channels // 2, 1)

    def forward(self, context: Float[Tensor, "N P V"]) -> Float[Tensor, "N V"]:
        """context: the self-attended grid."""
        summary = self.squeeze(context.mean(dim=1, keepdim=True)).relu()
        score = self.score(self.position(context).relu() * summary).tanh()
        return weighted_sum(score.softmax(dim=1), context)


class AudioGuidedVisual(nn.Module):
    """Sound guides vision: channels, then positions, then calibration  v + β σ(ṽ) v  (Eq. 2)."""

    def __init__(self, channels: int, audio_channels: int, beta: float) -> None:
        super().__init__()
        self.beta = beta
        self.within_grid = SelfAttention(channels, channels // 4)
        self.calibration = Calibration(channels)
        self.channel_attention = ChannelAttention(channels, audio_channels)
        self.spatial_attention = SpatialAttention(channels, audio_channels)

    def forward(
        self, grid: Float[Tensor, "N P V"], audio: Float[Tensor, "N A"], norm: nn.LayerNorm
    ) -> tuple[Float[Tensor, "N V"], Float[Tensor, "N P"]]:
        """The guided vector of each segment, and where in the grid it comes from."""
        context = self.within_grid(grid, norm)
        guided, where = audio_guided_mean(
            grid, context, audio, self.channel_attention, self.spatial_attention
        )
        calibrated = guided + self.beta * self.calibration(context).sigmoid() * guided
        return calibrated, where


class VisualGuidedAudio(nn.Module):
    """Vision guides sound  a + ψ σ(ã) a  (Eq. 3-6).

    The audio segments attend to one another; each segment's visual summary then queries them.
    """

    def __init__(self, channels: int, audio_channels: int, psi: float) -> None:
        super().__init__()
        self.psi = psi
        self.within_grid = SelfAttention(channels, channels // 4)
        self.within_audio = SelfAttention(audio_channels, audio_channels)
        self.audio_norm = nn.LayerNorm(audio_channels)
        self.query = nn.Linear(channels, audio_channels)
        self.key = nn.Linear(audio_channels, audio_channels)
        self.value = nn.Linear(audio_channels, audio_channels)

    def forward(
        self, grid: Float[Tensor, "N P V"], audio: Float[Tensor, "B T A"], norm: nn.LayerNorm
    ) -> Float[Tensor, "B T A"]:
        """grid: of all B x T segments."""
        summary = self.within_grid(grid, norm).mean(dim=1).unflatten(0, audio.shape[:2])
        context = self.within_audio(audio, self.audio_norm)
        attention = (self.query(summary) @ self.key(context).mT).softmax(dim=-1)
        return audio + self.psi * (attention @ self.value(context)).sigmoid() * audio


class CoGuidance(nn.Module):
    """Both directions, or one, or none: the rows of Table 1.

    mode: who guides: none, audio (guides vision), visual (guides sound), both. Without guidance
        the visual vector is the grid's mean, and sound passes unchanged.
    """

    def __init__(
        self, mode: Guidance, channels: int, audio_channels: int, beta: float, psi: float
    ) -> None:
        super().__init__()
        self.visual_norm = nn.LayerNorm(channels) if mode != "none" else None
        self.guide_visual = (
            AudioGuidedVisual(channels, audio_channels, beta) if mode in ("audio", "both") else None
        )
        self.guide_audio = (
            VisualGuidedAudio(channels, audio_channels, psi) if mode in ("visual", "both") else None
        )

    def forward(self, visual: Float[Tensor, "B T H W V"], audio: Float[Tensor, "B T A"]) -> Guided:
        """Each direction reads the other modality before its guidance."""
        grid = visual.flatten(2, 3).flatten(0, 1)
        guided_visual, attention, guided_audio = visual.mean(dim=(2, 3)), None, audio
        if self.guide_visual is not None and self.visual_norm is not None:
            vector, where = self.guide_visual(grid, audio.flatten(0, 1), self.visual_norm)
            guided_visual = vector.unflatten(0, audio.shape[:2])
            attention = where.view(visual.shape[:-1])
        if self.guide_audio is not None and self.visual_norm is not None:
            guided_audio = self.guide_audio(grid, audio, self.visual_norm)
        return Guided(guided_visual, guided_audio, attention)
