"""AVEL (Tian et al., ECCV 2018): audio-visual event localization with audio-guided attention."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cace.features.batches import Batch
from cace.localizers.parts.audio_guided_attention import AudioGuidedAttention
from cace.localizers.parts.protocol import (
    AuthorsFormat,
    Localization,
    Localizer,
    Sizes,
    full_precision,
    localization_of_scores,
    settings_of,
)
from cace.localizers.parts.relation import bidirectional_lstm


class Avel(Localizer):
    """AVEL with both modalities and attention, supervised: one of 29 labels for each segment.

    width: channels of each direction of the LSTMs, from which the other widths follow.

    Source: the released code of AVEL.
    """

    title = "AVEL"
    fixed_grid = True

    def __init__(self, sizes: Sizes, *, width: int = 128) -> None:
        super().__init__(sizes, settings_of(locals()))
        self.attention = AudioGuidedAttention(
            sizes.visual_channels, sizes.audio_channels, sizes.positions, hidden=4 * width
        )
        self.audio_lstm = bidirectional_lstm(sizes.audio_channels, width)
        self.visual_lstm = bidirectional_lstm(sizes.visual_channels, width)
        self.hidden = nn.Linear(4 * width, width // 2)
        self.scores = nn.Linear(width // 2, sizes.categories + 1)
        for layer in (self.hidden, self.scores):
            nn.init.xavier_uniform_(layer.weight)

    def forward(
        self, visual: Float[Tensor, "B T H W V"], audio: Float[Tensor, "B T A"]
    ) -> Localization:
        """Features as they are stored."""
        attended = self.attention(visual, audio)
        with full_precision(audio):
            audio_sequence, _ = self.audio_lstm(audio)
            visual_sequence, _ = self.visual_lstm(attended.visual.to(audio.dtype))
            both = torch.cat([audio_sequence, visual_sequence], dim=-1).relu()
            scores = self.scores(self.hidden(both).relu())
        return localization_of_scores(scores, attended.attention)

    def losses(self, out: Localization, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Multi-label soft margin of the labels' probabilities, a mean over segments and labels.

        Differs from a usual cross-entropy: it reads probabilities, so with 28 categories it falls
        from 0.7093 (all labels alike) to 0.6800 (perfect) and no further.
        """
        labels = F.one_hot(batch.labels, self.background + 1)
        probabilities = out.extra["scores"].softmax(dim=-1)
        mean = F.multilabel_soft_margin_loss(
            probabilities.flatten(0, 1), labels.flatten(0, 1).to(probabilities.dtype)
        )
        return {"segments": mean * len(batch.labels) / batch.clips}

    @classmethod
    def authors_format(cls, weights: dict[str, Tensor], settings: dict[str, Any]) -> AuthorsFormat:
        """Of a plain state dict with the keys of AVEL's repository."""
        sizes = Sizes(
            visual_channels=weights["affine_video.weight"].shape[1],
            audio_channels=weights["affine_audio.weight"].shape[1],
            categories=len(weights["L2.weight"]) - 1,
            positions=weights["affine_h.weight"].shape[1],
        )
        modules = {
            "attention.audio": "affine_audio",
            "attention.visual": "affine_video",
            "attention.from_visual": "affine_v",
            "attention.from_audio": "affine_g",
            "attention.score": "affine_h",
            "audio_lstm": "lstm_audio",
            "visual_lstm": "lstm_video",
            "hidden": "L1",
            "scores": "L2",
        }
        return AuthorsFormat(sizes, modules, unused=())
