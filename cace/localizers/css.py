"""CSS-Net (Feng et al., TMM 2023): consistent segment selection. A reconstruction."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cace.features.batches import Batch
from cace.localizers.parts.losses import two_heads
from cace.localizers.parts.propagation import Propagation, shares
from cace.localizers.parts.protocol import (
    Localization,
    Localizer,
    Sizes,
    full_precision,
    settings_of,
)
from cace.localizers.parts.relation import bidirectional_lstm
from cace.localizers.parts.spatial_channel_attention import (
    ChannelAttention,
    SpatialAttention,
    audio_guided_mean,
)

DISTANCE_WEIGHT = 0.1  # of the Euclidean distance beside the cosine


class Css(Localizer):
    """CSS-Net on stored features: modalities guide each other, and correlated segments are kept.

    width: channels of each direction of the LSTMs.
    psi: weight of the guided audio feature.
    contrast_weight: of the loss that draws the two global features together.

    Source: CSS-Net's abstract, and CACE-Net's section on related work: attention in both
    directions, a cross-correlation matrix whose high coefficients are kept, and a contrast of the
    global features by cosine and Euclidean distance.
    Differs, being a reconstruction: the attention is CMRAN's for vision and CACE-Net's for sound,
    the propagation is PSP's; which correlations are kept, the heads, weights and all dimensions.
    """

    title = "CSS-Net"
    reconstruction = (
        "both attentions, the propagation, which correlations are kept, heads, weights, dimensions "
        "and the optimizer are free choices; no code was released"
    )

    def __init__(
        self,
        sizes: Sizes,
        *,
        width: int = 128,
        psi: float = 0.3,
        contrast_weight: float = 0.1,
    ) -> None:
        super().__init__(sizes, settings_of(locals()))
        visual, audio = sizes.visual_channels, sizes.audio_channels
        self.psi, self.contrast_weight = psi, contrast_weight
        self.channel_attention = ChannelAttention(visual, audio)
        self.spatial_attention = SpatialAttention(visual, audio)
        self.query = nn.Linear(visual, audio)
        self.key = nn.Linear(audio, audio)
        self.value = nn.Linear(audio, audio)
        self.audio_lstm = bidirectional_lstm(audio, width)
        self.visual_lstm = bidirectional_lstm(visual, width)
        self.propagation = Propagation(2 * width, correlation, above_the_mean)
        self.relevance_head = nn.Linear(2 * width, 1)
        self.class_head = nn.Linear(2 * width, sizes.categories)

    def forward(
        self, visual: Float[Tensor, "B T H W V"], audio: Float[Tensor, "B T A"]
    ) -> Localization:
        """Features as they are stored."""
        grid, sound = visual.flatten(2, 3).flatten(0, 1), audio.flatten(0, 1)
        vector, where = audio_guided_mean(
            grid, grid, sound, self.channel_attention, self.spatial_attention
        )
        with full_precision(audio):
            guided = vector.unflatten(0, audio.shape[:2]).to(audio.dtype)
            query = self.query(visual.mean(dim=(2, 3)))
            weights = (query @ self.key(audio).mT / audio.shape[-1] ** 0.5).softmax(dim=-1)
            guided_audio = audio + self.psi * (weights @ self.value(audio)).sigmoid() * audio
            visual_sequence, _ = self.visual_lstm(guided)
            audio_sequence, _ = self.audio_lstm(guided_audio)
            seen, heard = self.propagation(visual_sequence, audio_sequence)
            fused = (seen + heard) / 2
            return Localization(
                relevance=self.relevance_head(fused).squeeze(-1),
                class_logits=self.class_head(fused.mean(dim=1)).unsqueeze(1),
                attention=where.view(visual.shape[:-1]),
                extra={"seen": seen.mean(dim=1), "heard": heard.mean(dim=1)},
            )

    def losses(self, out: Localization, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Of the two heads, and of the distance between the two global features.

        Vision and sound of different clips are not drawn together.
        """
        seen, heard = (F.normalize(out.extra[name], dim=-1) for name in ("seen", "heard"))
        apart = 1 - (seen * heard).sum(dim=-1)
        distance = (seen - heard).norm(dim=-1)
        contrast = (apart + DISTANCE_WEIGHT * distance).sum() / batch.clips
        if batch.tags_only and batch.tags_only.mismatched:
            contrast = torch.zeros_like(contrast)
        return {
            **two_heads(out, batch, self.background),
            "contrast": self.contrast_weight * contrast,
        }


def correlation(
    visual: Float[Tensor, "B T D"], audio: Float[Tensor, "B T D"]
) -> Float[Tensor, "B T T"]:
    """The correlation coefficient, over channels, of each visual with each audio segment."""
    visual, audio = (x - x.mean(dim=-1, keepdim=True) for x in (visual, audio))
    return F.normalize(visual, dim=-1) @ F.normalize(audio, dim=-1).mT


def above_the_mean(similar: Float[Tensor, "B T T"]) -> Float[Tensor, "B T T"]:
    """The positive correlations above the mean of their row, as shares."""
    strong = (similar > 0) & (similar > similar.mean(dim=-1, keepdim=True))
    return shares(similar * strong)
