"""AVEL (Tian et al., ECCV 2018): audio-visual event localization with audio-guided attention."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cace.features.batches import Batch
from cace.localizers.parts import audio_guided_attention
from cace.localizers.parts.audio_guided_attention import AudioGuidedAttention, xavier_linear
from cace.localizers.parts.losses import released_tag_loss
from cace.localizers.parts.protocol import (
    AuthorsFormat,
    Localization,
    Sizes,
    full_precision,
    localization_of_scores,
    settings_of,
)
from cace.localizers.parts.relation import bidirectional_lstm
from cace.localizers.parts.segment_labels import SegmentLabels
from cace.settings import AvelFusion, WeakForm


class Avel(SegmentLabels):
    """AVEL with both modalities and attention, supervised: one of 29 labels for each segment.

    width: channels of each direction of the LSTMs, from which the other widths follow.
    weak_form: how it learns from tags: common, as all methods do here; released, as its own code.
    fusion: how the modalities come together after their LSTMs: concat, or dmrn, the dual
        multimodal residual network of the same paper.

    Source: the released code of AVEL.
    Differs: the published DMRN starts from a trained AVEL; here it is trained from scratch.
    """

    title = "AVEL"
    fixed_grid = True

    def __init__(
        self,
        sizes: Sizes,
        *,
        width: int = 128,
        fusion: AvelFusion = "concat",
        weak_form: WeakForm = "common",
    ) -> None:
        super().__init__(sizes, settings_of(locals()))
        self.attention = AudioGuidedAttention(
            sizes.visual_channels, sizes.audio_channels, sizes.positions, hidden=4 * width
        )
        self.audio_lstm = bidirectional_lstm(sizes.audio_channels, width)
        self.visual_lstm = bidirectional_lstm(sizes.visual_channels, width)
        if fusion == "concat":
            self.hidden = xavier_linear(4 * width, width // 2)
            self.scores = xavier_linear(width // 2, sizes.categories + 1)
        else:
            self.from_visual, self.from_audio = _residual(2 * width), _residual(2 * width)
            self.scores = xavier_linear(2 * width, sizes.categories + 1)
        self.fusion, self.weak_form = fusion, weak_form

    def forward(
        self, visual: Float[Tensor, "B T H W V"], audio: Float[Tensor, "B T A"]
    ) -> Localization:
        """Features as they are stored."""
        attended = self.attention(visual, audio)
        with full_precision(audio):
            audio_sequence, _ = self.audio_lstm(audio)
            visual_sequence, _ = self.visual_lstm(attended.visual.to(audio.dtype))
            if self.fusion == "concat":
                both = torch.cat([audio_sequence, visual_sequence], dim=-1).relu()
                fused = self.hidden(both).relu()
            else:
                shared = (self.from_visual(visual_sequence) + self.from_audio(audio_sequence)) / 2
                fused = ((audio_sequence + shared).tanh() + (visual_sequence + shared).tanh()) / 2
            scores = self.scores(fused)
        return localization_of_scores(scores, attended.attention)

    def losses(self, out: Localization, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Of the labels; in the released weak form, of the largest scores of the clip."""
        if batch.tags_only and self.weak_form == "released":
            return {"tag": released_tag_loss(out.extra["scores"].amax(dim=1), batch)}
        return super().losses(out, batch)

    @classmethod
    def authors_format(cls, weights: dict[str, Tensor], settings: dict[str, Any]) -> AuthorsFormat:
        """Of a plain state dict with the keys of AVEL's repository."""
        modules = {
            **audio_guided_attention.AUTHORS_MODULES,
            "audio_lstm": "lstm_audio",
            "visual_lstm": "lstm_video",
            "hidden": "L1",
            "scores": "L2",
            "from_visual": "U_v",
            "from_audio": "U_a",
        }
        sizes = audio_guided_attention.authors_sizes(weights, sound="affine_audio.weight")
        return AuthorsFormat(sizes, modules, unused=())


def _residual(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(channels, channels), nn.Tanh(), nn.Linear(channels, channels))
