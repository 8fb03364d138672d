"""CACE-Net: from the features of a clip to its events.

Source: CACE-Net, sections 3.2-3.5. The parts are in attention.py and relation.py.
Differs from the paper's text, as the published results do: an input layer, LSTMs before the
transformers, cross gates (α), and class-activation scores that enter the class logits (γ).
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cace.localizers.parts.co_guidance import CoGuidance
from cace.localizers.parts.relation import AcrossModalities, Interaction, WithinModality
from cace.settings import Guidance, Heads

VISUAL_CHANNELS, AUDIO_CHANNELS, MODEL_CHANNELS = 512, 128, 256
TOP_SEGMENTS = 4  # that make a category's class-activation score


class Localization(NamedTuple):
    """What the localizer says about a batch of clips."""

    relevance: Float[Tensor, "B T"]  # logit: does the segment hold the event?
    class_logits: Float[Tensor, "B C"]  # one event category for the whole clip
    gate: Float[Tensor, "B T"]  # in (0, 1): both modalities say that something happens
    class_activation: Float[Tensor, "B C"]  # logits: mean of the top segments, of both modalities
    attention: Float[Tensor, "B T H W"] | None  # where sound made vision look; sums to 1
    query: Float[Tensor, "B T D"] | None  # unit vectors, for the contrast; None without BECE
    key: Float[Tensor, "B T D"] | None  # the same of noisy features; where noise was asked for


class Localizer(nn.Module):
    """CACE-Net on stored features.

    guidance: none, audio (sound guides vision), visual, both.
    beta, psi: β of Eq. 2 and ψ of Eq. 6.
    bece: background-event contrast enhancement; without it there is no enhanced feature.
    bece_lambda, bece_noise: λ of Eq. 8 and the deviation of the noise of the second view.
    bece_heads: which heads read the enhanced feature: that of the relevance ("event") or both.
    alpha, gamma: weights of the cross gates and of the class activation.

    `contrast_on` says whether the heads read the enhanced feature; training switches it on after
    the first part of the epochs.
    """

    def __init__(
        self,
        visual_channels: int,
        audio_channels: int,
        categories: int,
        *,
        guidance: Guidance = "both",
        beta: float = 0.4,
        psi: float = 0.3,
        bece: bool = True,
        bece_lambda: float = 0.6,
        bece_noise: float = 0.1,
        bece_heads: Heads = "event",
        alpha: float = 0.1,
        gamma: float = 0.3,
    ) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {  # what builds the same localizer again
            "visual_channels": visual_channels,
            "audio_channels": audio_channels,
            "categories": categories,
            "guidance": guidance,
            "beta": beta,
            "psi": psi,
            "bece": bece,
            "bece_lambda": bece_lambda,
            "bece_noise": bece_noise,
            "bece_heads": bece_heads,
            "alpha": alpha,
            "gamma": gamma,
        }
        self.bece_lambda, self.bece_noise, self.bece_heads = bece_lambda, bece_noise, bece_heads
        self.alpha, self.gamma = alpha, gamma
        self.contrast_on = False

        self.visual_input = nn.Sequential(
            nn.Linear(visual_channels, VISUAL_CHANNELS), nn.ReLU(), nn.Dropout(0.2)
        )
        self.audio_input = (
            nn.Identity()
            if audio_channels == AUDIO_CHANNELS
            else nn.Linear(audio_channels, AUDIO_CHANNELS)
        )
        self.guidance = CoGuidance(guidance, VISUAL_CHANNELS, AUDIO_CHANNELS, beta, psi)
        self.visual_lstm = _lstm(VISUAL_CHANNELS, VISUAL_CHANNELS // 2)
        self.audio_lstm = _lstm(AUDIO_CHANNELS, AUDIO_CHANNELS)
        self.within_visual = WithinModality(VISUAL_CHANNELS, MODEL_CHANNELS)
        self.within_audio = WithinModality(2 * AUDIO_CHANNELS, MODEL_CHANNELS)
        self.visual_across = AcrossModalities(VISUAL_CHANNELS, MODEL_CHANNELS)
        self.audio_across = AcrossModalities(2 * AUDIO_CHANNELS, MODEL_CHANNELS)
        self.visual_gate = nn.Linear(MODEL_CHANNELS, 1)
        self.audio_gate = nn.Linear(MODEL_CHANNELS, 1)
        self.visual_activation = nn.Linear(MODEL_CHANNELS, categories)
        self.audio_activation = nn.Linear(MODEL_CHANNELS, categories)
        self.visual_interaction = Interaction(MODEL_CHANNELS)
        self.audio_interaction = Interaction(MODEL_CHANNELS)
        self.enhance = nn.Linear(MODEL_CHANNELS, MODEL_CHANNELS) if bece else None
        self.relevance_head = nn.Linear(MODEL_CHANNELS, 1)
        self.class_head = nn.Linear(MODEL_CHANNELS, categories)

    def forward(
        self,
        visual: Float[Tensor, "B T H W V"],
        audio: Float[Tensor, "B T A"],
        noise: Float[Tensor, "B T D"] | None = None,
    ) -> Localization:
        """noise: standard normal, for the keys; drawn here in training where it is not given."""
        guided = self.guidance(self.visual_input(visual), self.audio_input(audio))
        # Autocast ends here: the grid is nine tenths of the arithmetic, the rest stays exact.
        with torch.autocast(visual.device.type, enabled=False):
            return self._localize(
                guided.visual.to(audio.dtype), guided.audio.to(audio.dtype), guided.attention, noise
            )

    def _localize(
        self,
        visual: Float[Tensor, "B T V"],
        audio: Float[Tensor, "B T A"],
        attention: Float[Tensor, "B T H W"] | None,
        noise: Float[Tensor, "B T D"] | None,
    ) -> Localization:
        """From one visual and one audio vector a segment on."""
        visual_sequence, _ = self.visual_lstm(visual)
        audio_sequence, _ = self.audio_lstm(audio)

        visual_memory = self.within_visual(visual_sequence)
        audio_memory = self.within_audio(audio_sequence)
        heard = self.audio_across(audio_sequence, visual_memory)
        seen = self.visual_across(visual_sequence, audio_memory)

        visual_gate = self.visual_gate(visual_memory).sigmoid()
        audio_gate = self.audio_gate(audio_memory).sigmoid()
        # Crossed: what is heard strengthens what is seen.
        seen = seen + self.alpha * audio_gate * seen
        heard = heard + self.alpha * visual_gate * heard
        class_activation = (
            _top_mean(self.visual_activation(seen)) + _top_mean(self.audio_activation(heard))
        ) / 2

        seen = self.visual_interaction(seen, heard)
        heard = self.audio_interaction(heard, seen)
        fused = (seen + heard) / 2
        enhanced, query, key = self._enhance(fused, noise)
        for_category = enhanced if self.bece_heads == "both" else fused
        return Localization(
            relevance=self.relevance_head(enhanced).squeeze(-1),
            class_logits=self.class_head(for_category.amax(dim=1)) + self.gamma * class_activation,
            gate=(audio_gate * visual_gate).squeeze(-1),
            class_activation=class_activation,
            attention=attention,
            query=query,
            key=key,
        )

    def _enhance(
        self, fused: Float[Tensor, "B T D"], noise: Float[Tensor, "B T D"] | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The enhanced feature (Eq. 8), and the two views of the contrast."""
        if self.enhance is None:
            return fused, None, None
        residual = self.enhance(fused).relu()
        enhanced = fused + self.bece_lambda * residual if self.contrast_on else fused
        if noise is None and self.training:
            noise = torch.randn_like(fused)
        key = None
        if noise is not None:
            key = F.normalize(self.enhance(fused + self.bece_noise * noise).relu(), dim=-1)
        return enhanced, F.normalize(residual, dim=-1), key


def _lstm(channels: int, hidden: int) -> nn.LSTM:
    return nn.LSTM(channels, hidden, batch_first=True, bidirectional=True)


def _top_mean(scores: Float[Tensor, "B T C"]) -> Float[Tensor, "B C"]:
    return scores.topk(min(TOP_SEGMENTS, scores.shape[1]), dim=1).values.mean(dim=1)
