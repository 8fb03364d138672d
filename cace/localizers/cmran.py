"""CMRAN (Xu et al., ACM MM 2020): cross-modal relation-aware networks."""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from cace.features.batches import Batch
from cace.localizers.parts import authors_names
from cace.localizers.parts.losses import two_heads
from cace.localizers.parts.protocol import (
    AuthorsFormat,
    Localization,
    Localizer,
    Sizes,
    full_precision,
    settings_of,
)
from cace.localizers.parts.relation import AcrossModalities, Interaction, WithinModality
from cace.localizers.parts.spatial_channel_attention import (
    ChannelAttention,
    SpatialAttention,
    audio_guided_mean,
    visual_input,
)


class Cmran(Localizer):
    """CMRAN on stored features: sound guides vision, then each modality attends to both.

    width: channels of the visual branch, from which the other widths follow.

    Source: the released code of CMRAN, supervised.
    Differs: a clip without any event is left out of the category term; that code counts it as
    category 0.
    """

    title = "CMRAN"

    def __init__(self, sizes: Sizes, *, width: int = 512) -> None:
        super().__init__(sizes, settings_of(locals()))
        audio, model, hidden = sizes.audio_channels, width // 2, 4 * width
        self.visual_input = visual_input(sizes.visual_channels, width)
        self.channel_attention = ChannelAttention(width, audio)
        self.spatial_attention = SpatialAttention(width, audio)
        self.within_visual = WithinModality(width, model, hidden)
        self.within_audio = WithinModality(audio, model, hidden)
        self.visual_across = AcrossModalities(width, model, hidden)
        self.audio_across = AcrossModalities(audio, model, hidden)
        self.visual_interaction = Interaction(model, dropout=0.1)
        self.relevance_head = nn.Linear(model, 1)
        self.class_head = nn.Linear(model, sizes.categories)

    def forward(
        self, visual: Float[Tensor, "B T H W V"], audio: Float[Tensor, "B T A"]
    ) -> Localization:
        """Features as they are stored."""
        grid = self.visual_input(visual).flatten(2, 3).flatten(0, 1)
        sound = audio.flatten(0, 1)
        vector, where = audio_guided_mean(
            grid, grid, sound, self.channel_attention, self.spatial_attention
        )
        with full_precision(audio):
            guided = vector.unflatten(0, audio.shape[:2]).to(audio.dtype)
            audio_query = self.audio_across(audio, self.within_visual(guided))
            visual_query = self.visual_across(guided, self.within_audio(audio))
            fused = self.visual_interaction(visual_query, audio_query)
            return Localization(
                relevance=self.relevance_head(fused).squeeze(-1),
                class_logits=self.class_head(fused.amax(dim=1)).unsqueeze(1),
                attention=where.view(visual.shape[:-1]),
                extra={},
            )

    def losses(self, out: Localization, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Of the two heads."""
        return two_heads(out, batch, self.background)

    @classmethod
    def authors_format(cls, weights: dict[str, Tensor], settings: dict[str, Any]) -> AuthorsFormat:
        """Of the checkpoints of CMRAN's repository."""
        modules = {
            "visual_input.0": "v_fc",
            **authors_names.SPATIAL_CHANNEL,
            **authors_names.RELATIONS,
            **authors_names.HEADS,
        }
        unused = (*authors_names.UNUSED, "spatial_channel_att.affine_video_guided_")
        return AuthorsFormat(authors_names.sizes(weights), modules, unused)
