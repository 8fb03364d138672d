"""AVEL's way of labelling: each segment gets the best of all categories and the background.

Source: AVEL (Tian et al. 2018), as its released code computes it.
"""

from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from cace.features.batches import Batch
from cace.localizers.parts.audio_guided_attention import xavier_linear
from cace.localizers.parts.losses import label_loss
from cace.localizers.parts.protocol import (
    Localization,
    Localizer,
    Sizes,
    full_precision,
    localization_of_scores,
)
from cace.localizers.parts.relation import bidirectional_lstm


class SegmentLabels(Localizer):
    """A method that scores every label for each segment, with the loss of AVEL."""

    def losses(self, out: Localization, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Multi-label soft margin of the labels' probabilities, a mean over segments and labels.

        Differs from a usual cross-entropy: it reads probabilities, so with 28 categories it falls
        from 0.7093 (all labels alike) to 0.6800 (perfect) and no further.
        Under weak supervision, the terms that all methods have there.
        """
        if batch.tags_only:
            return {"segments": label_loss(out.extra["scores"], batch)}
        labels = F.one_hot(batch.labels, self.background + 1)
        probabilities = out.extra["scores"].softmax(dim=-1)
        mean = F.multilabel_soft_margin_loss(
            probabilities.flatten(0, 1), labels.flatten(0, 1).to(probabilities.dtype)
        )
        return {"segments": mean * len(batch.labels) / batch.clips}


class OneModality(SegmentLabels):
    """AVEL with one of its branches alone.

    channels: of the modality.
    width: channels of each direction of the LSTM, from which the other widths follow.
    """

    reconstruction = "AVEL's layers with the other branch left out; no code was released"

    def __init__(self, sizes: Sizes, settings: dict[str, Any], channels: int, width: int) -> None:
        super().__init__(sizes, settings)
        self.lstm = bidirectional_lstm(channels, width)
        self.hidden = xavier_linear(2 * width, width // 2)
        self.scores = xavier_linear(width // 2, sizes.categories + 1)

    def label(self, segments: Float[Tensor, "B T X"]) -> Localization:
        """From one vector per segment."""
        with full_precision(segments):
            sequence, _ = self.lstm(segments)
            scores = self.scores(self.hidden(sequence.relu()).relu())
        return localization_of_scores(scores, attention=None)
