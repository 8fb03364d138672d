"""The network of CMBS, which CACE-Net extends: relations over time under background suppression.

Source: CMBS (Xia and Zhao 2022), as its released code computes it; CACE-Net, section 3.3.
Differs from CACE-Net's text, as the published results do: an input layer, LSTMs before the
transformers, cross gates (α), and class-activation scores that enter the class logits (γ).
"""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from cace.features.batches import Batch
from cace.localizers.parts.co_guidance import CoGuidance
from cace.localizers.parts.losses import category_loss, event_loss, two_heads
from cace.localizers.parts.protocol import Localization, Sizes, full_precision
from cace.localizers.parts.relation import (
    AcrossModalities,
    Interaction,
    WithinModality,
    bidirectional_lstm,
)
from cace.localizers.parts.spatial_channel_attention import visual_input
from cace.settings import Guidance

TOP_SEGMENTS = 4  # that make a category's class-activation score
DROPOUT = 0.2
MOST_CERTAIN = 1e-6  # of a gate under weak supervision: its logarithm stays finite

# What a timeline may show of this network.
GATE_LANE = {"gate": "picture and sound both indicate that something happens"}


class Suppressed(NamedTuple):
    """What the network knows of a clip."""

    fused: Float[Tensor, "B T D"]  # both modalities, after their interaction
    gate: Float[Tensor, "B T"]  # in (0, 1): both modalities find that something happens
    class_activation: Float[Tensor, "B C"]  # logits: mean of the top segments, of both modalities
    attention: Float[Tensor, "B T H W"] | None  # where sound guides vision to; sums to 1


class BackgroundSuppression(nn.Module):
    """From the features of a clip to one vector per segment.

    guidance, beta, psi: of the co-guidance attention in front.
    alpha: how much one modality's gate strengthens the other.
    width: channels of the visual branch; audio has a quarter, the fused vector half of it.
    across_width: hidden channels of the feed-forward layer across modalities.
    """

    def __init__(
        self,
        sizes: Sizes,
        *,
        guidance: Guidance,
        beta: float,
        psi: float,
        alpha: float,
        width: int,
        across_width: int,
    ) -> None:
        super().__init__()
        visual, audio, model = width, width // 4, width // 2
        self.alpha = alpha
        self.channels = model
        self.visual_input = visual_input(sizes.visual_channels, visual)
        self.audio_input = (
            nn.Identity()
            if sizes.audio_channels == audio
            else nn.Linear(sizes.audio_channels, audio)
        )
        self.guidance = CoGuidance(guidance, visual, audio, beta, psi)
        self.visual_lstm = bidirectional_lstm(visual, visual // 2)
        self.audio_lstm = bidirectional_lstm(audio, audio)
        self.within_visual = WithinModality(visual, model, hidden=2 * width)
        self.within_audio = WithinModality(2 * audio, model, hidden=2 * width)
        self.visual_across = AcrossModalities(visual, model, hidden=across_width)
        self.audio_across = AcrossModalities(2 * audio, model, hidden=across_width)
        self.visual_gate = nn.Linear(model, 1)
        self.audio_gate = nn.Linear(model, 1)
        self.visual_activation = nn.Linear(model, sizes.categories)
        self.audio_activation = nn.Linear(model, sizes.categories)
        self.visual_interaction = Interaction(model, DROPOUT)
        self.audio_interaction = Interaction(model, DROPOUT)

    def forward(
        self, visual: Float[Tensor, "B T H W V"], audio: Float[Tensor, "B T A"]
    ) -> Suppressed:
        """Features as they are stored."""
        guided = self.guidance(self.visual_input(visual), self.audio_input(audio))
        with full_precision(audio):
            return self._relate(
                guided.visual.to(audio.dtype), guided.audio.to(audio.dtype), guided.attention
            )

    def _relate(
        self,
        visual: Float[Tensor, "B T V"],
        audio: Float[Tensor, "B T A"],
        attention: Float[Tensor, "B T H W"] | None,
    ) -> Suppressed:
        """The network after guidance, which gives one visual and one audio vector per segment."""
        visual_sequence, _ = self.visual_lstm(visual)
        audio_sequence, _ = self.audio_lstm(audio)

        visual_memory = self.within_visual(visual_sequence)
        audio_memory = self.within_audio(audio_sequence)
        audio = self.audio_across(audio_sequence, visual_memory)
        visual = self.visual_across(visual_sequence, audio_memory)

        visual_gate = self.visual_gate(visual_memory).sigmoid()
        audio_gate = self.audio_gate(audio_memory).sigmoid()
        # Crossed: the gate of the audio strengthens the visual vector.
        visual = visual + self.alpha * audio_gate * visual
        audio = audio + self.alpha * visual_gate * audio
        class_activation = (
            _top_mean(self.visual_activation(visual)) + _top_mean(self.audio_activation(audio))
        ) / 2

        visual = self.visual_interaction(visual, audio)
        audio = self.audio_interaction(audio, visual)
        gate = (audio_gate * visual_gate).squeeze(-1)
        return Suppressed((visual + audio) / 2, gate, class_activation, attention)


def suppression_losses(
    out: Localization, batch: Batch, background: int
) -> dict[str, Float[Tensor, ""]]:
    """The four supervised terms (Eq. 12): of the two heads, the gate and the class activation.

    Differs from the paper's text, as the published results do: background suppression is the gate
    term and the class-activation term. The gate, already in (0, 1), goes through a sigmoid again,
    so its term cannot reach 0. Differs from both: a clip without any event is left out of the
    category terms; the published code counts it as category 0. Under weak supervision, which is
    ours, the gate is the probability that it says.
    """
    gate = out.extra["gate"]
    return {
        **two_heads(out, batch, background),
        "gate": event_loss(
            gate.logit(MOST_CERTAIN) if batch.tags_only else gate, batch, background
        ),
        "class_activation": category_loss(out.extra["class_activation"], batch, background),
    }


def _top_mean(scores: Float[Tensor, "B T C"]) -> Float[Tensor, "B C"]:
    return scores.topk(min(TOP_SEGMENTS, scores.shape[1]), dim=1).values.mean(dim=1)
