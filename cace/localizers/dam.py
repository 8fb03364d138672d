"""DAM (Wu et al., ICCV 2019): dual attention matching. A reconstruction."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from cace.features.batches import Batch
from cace.localizers.parts.audio_guided_attention import AudioGuidedAttention
from cace.localizers.parts.losses import category_loss, event_loss
from cace.localizers.parts.protocol import (
    Localization,
    Localizer,
    Sizes,
    full_precision,
    settings_of,
)

MOST_CERTAIN = 1e-6  # of a probability: its logit stays finite


class Dam(Localizer):
    """DAM on stored features: the event seen in one modality asks each segment of the other.

    width: channels of the segments of either modality; half of the channels of the hidden layers.

    Source: DAM's abstract and the caption of its Fig. 2: a global feature of each modality, from
    self-attention over the segments of the event, whose product with a segment of the other
    modality says whether the event is there.
    Differs, being a reconstruction: the attention over the grid is AVEL's; self-attention with one
    head, then the mean; products divided by √width; at test, the event is where a first pass over
    all segments finds it, which the loss trains too.
    """

    title = "DAM"
    fixed_grid = True
    reconstruction = (
        "dimensions, the attention, the scale of the products, the event region at test and its "
        "loss, and the optimizer are free choices; no code was released"
    )

    def __init__(self, sizes: Sizes, *, width: int = 256) -> None:
        super().__init__(sizes, settings_of(locals()))
        self.attention = AudioGuidedAttention(
            sizes.visual_channels, sizes.audio_channels, sizes.positions, hidden=2 * width
        )
        self.visual_input = nn.Linear(sizes.visual_channels, width)
        self.audio_input = nn.Linear(sizes.audio_channels, width)
        self.within_visual = nn.MultiheadAttention(width, num_heads=1, batch_first=True)
        self.within_audio = nn.MultiheadAttention(width, num_heads=1, batch_first=True)
        self.class_head = nn.Sequential(
            nn.Linear(2 * width, 2 * width),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(2 * width, sizes.categories),
        )

    def forward(
        self, visual: Float[Tensor, "B T H W V"], audio: Float[Tensor, "B T A"]
    ) -> Localization:
        """Features as they are stored."""
        attended = self.attention(visual, audio)
        with full_precision(audio):
            seen = self.visual_input(attended.visual.to(audio.dtype))
            heard = self.audio_input(audio)
            first = self._match(seen, heard, torch.ones_like(audio[..., 0], dtype=torch.bool))
            probability = _probability(first)
            second = self._match(seen, heard, probability > 0.5)
            relevance = _probability(second).logit(MOST_CERTAIN)
        return Localization(
            relevance=relevance,
            class_logits=second["class_logits"].unsqueeze(1),
            attention=attended.attention,
            extra={
                "seen": seen,
                "heard": heard,
                "seen_first": first["seen"],
                "heard_first": first["heard"],
            },
        )

    def _match(
        self,
        seen: Float[Tensor, "B T D"],
        heard: Float[Tensor, "B T D"],
        event: Bool[Tensor, "B T"],
    ) -> dict[str, Tensor]:
        """The relevance of each segment, and the category, given the segments of the event.

        event: of a clip without such a segment, all of them count.
        """
        event = event | ~event.any(dim=1, keepdim=True)
        visual = global_feature(self.within_visual, seen, event)
        sound = global_feature(self.within_audio, heard, event)
        scale = seen.shape[-1] ** -0.5
        return {
            "seen": (seen * sound.unsqueeze(1)).sum(dim=-1) * scale,
            "heard": (heard * visual.unsqueeze(1)).sum(dim=-1) * scale,
            "class_logits": self.class_head(torch.cat([visual, sound], dim=-1)),
        }

    def losses(self, out: Localization, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Of both passes, the second on the event segments of the labels, and of the category.

        Weak supervision does not know these segments: the second pass uses those of the first.
        """
        first = {name: out.extra[f"{name}_first"] for name in ("seen", "heard")}
        event = _probability(first) > 0.5 if batch.tags_only else batch.labels != self.background
        known = self._match(out.extra["seen"], out.extra["heard"], event)

        def relevance(seen: Tensor, heard: Tensor) -> Tensor:
            each = [event_loss(logits, batch, self.background) for logits in (seen, heard)]
            return (each[0] + each[1]) / 2

        return {
            "relevance": relevance(known["seen"], known["heard"]),
            "first_relevance": relevance(**first),
            "category": category_loss(known["class_logits"], batch, self.background),
        }


def global_feature(
    attention: nn.MultiheadAttention, x: Float[Tensor, "B T D"], event: Bool[Tensor, "B T"]
) -> Float[Tensor, "B D"]:
    """The mean of the event's segments, after they attended to one another.

    event: at least one segment of each clip.
    """
    attended, _ = attention(x, x, x, key_padding_mask=~event, need_weights=False)
    weights = event.to(x.dtype) / event.sum(dim=1, keepdim=True)
    return (weights.unsqueeze(1) @ attended).squeeze(1)


def _probability(found: dict[str, Tensor]) -> Float[Tensor, "B T"]:
    return (found["seen"].sigmoid() + found["heard"].sigmoid()) / 2
