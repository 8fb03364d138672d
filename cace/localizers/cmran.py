"""CMRAN (Xu et al., ACM MM 2020): cross-modal relation-aware networks."""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from cace.features.batches import Batch
from cace.localizers.parts import authors_names
from cace.localizers.parts.losses import released_tag_loss, two_heads
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
from cace.settings import WeakForm
from cace.system.errors import UserError


class Cmran(Localizer):
    """CMRAN on stored features: sound guides vision, then each modality attends to both.

    width: channels of the visual branch, from which the other widths follow.
    weak_form: how it learns from tags: common, as all methods do here; released, as CMRAN's weakly
        supervised code does. That network has two heads of attention in its interaction, and also
        scores the background of the complete clip: a segment is an event only if its own score and
        the clip's say so.

    Source: the released code of CMRAN.
    Differs: a clip without any event is left out of the category term; that code counts it as
    category 0.
    """

    title = "CMRAN"
    clips_at_once = 16

    def __init__(self, sizes: Sizes, *, width: int = 512, weak_form: WeakForm = "common") -> None:
        super().__init__(sizes, settings_of(locals()))
        audio, model, hidden = sizes.audio_channels, width // 2, 4 * width
        self.visual_input = visual_input(sizes.visual_channels, width)
        self.channel_attention = ChannelAttention(width, audio)
        self.spatial_attention = SpatialAttention(width, audio)
        self.within_visual = WithinModality(width, model, hidden)
        self.within_audio = WithinModality(audio, model, hidden)
        self.visual_across = AcrossModalities(width, model, hidden)
        self.audio_across = AcrossModalities(audio, model, hidden)
        self.released = weak_form == "released"
        self.visual_interaction = Interaction(model, dropout=0.1, heads=2 if self.released else 4)
        self.relevance_head = nn.Linear(model, 1)
        self.class_head = nn.Linear(model, sizes.categories + self.released)

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
            relevance = self.relevance_head(fused).squeeze(-1)
            scores = self.class_head(fused.amax(dim=1))
        found = Localization(
            relevance, scores.unsqueeze(1), where.view(visual.shape[:-1]), extra={}
        )
        return _with_clip_background(found) if self.released else found

    def losses(self, out: Localization, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Of the two heads; in the released weak form, of their product's maximum over time."""
        if not self.released:
            return two_heads(out, batch, self.background)
        if not batch.tags_only:
            raise UserError(
                "CMRAN's released weak form learns from tags alone; set supervision: weak"
            )
        shown = out.extra["event"].sigmoid().unsqueeze(-1) * out.extra["scores"].unsqueeze(1)
        return {"tag": released_tag_loss(shown.amax(dim=1), batch)}

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
        sizes = authors_names.sizes(weights)
        if settings.get("weak_form") == "released":  # its last class is the background
            sizes = sizes._replace(categories=sizes.categories - 1)
        return AuthorsFormat(sizes, modules, unused)


def _with_clip_background(found: Localization) -> Localization:
    """Of scores whose last one is the background of the clip."""
    scores = found.class_logits.squeeze(1)
    best = scores[:, :-1].amax(dim=1, keepdim=True) - scores[:, -1:]
    return Localization(
        relevance=found.relevance.minimum(best),
        class_logits=scores[:, None, :-1],
        attention=found.attention,
        extra={"event": found.relevance, "scores": scores},
    )
