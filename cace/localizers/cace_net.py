"""CACE-Net (He et al., ACM MM 2024): co-guidance attention and contrastive enhancement.

Where the paper's equations are:
    Eq. 1-6   co-guidance attention (3.2)             parts/co_guidance.py
    Eq. 7     background-event contrast (3.3)         parts/contrast.py
    Eq. 8     contrast-enhanced feature (3.3)         `CaceNet._enhance`, here
    Eq. 9     fine-tuning of the encoder (3.4)        cace/finetuning/contrast.py
    Eq. 10-12 heads and loss (3.5)                    `CaceNet.forward` and `CaceNet.losses`, here
The relations over time and the background suppression between them, which CACE-Net shares with
CMBS, are in parts/background_suppression.py.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cace.features.batches import Batch
from cace.localizers.parts import authors_names
from cace.localizers.parts import background_suppression as suppression
from cace.localizers.parts.background_suppression import BackgroundSuppression
from cace.localizers.parts.contrast import bece_loss
from cace.localizers.parts.protocol import (
    AuthorsFormat,
    Localization,
    Localizer,
    Sizes,
    full_precision,
    settings_of,
)
from cace.settings import ContrastForm, Guidance, Heads


class CaceNet(Localizer):
    """CACE-Net on stored features.

    guidance: who guides: none, audio (guides vision), visual, both.
    beta, psi: β of Eq. 2 and ψ of Eq. 6.
    alpha, gamma: weights of the cross gates and of the class activation.
    width: channels of the visual branch, from which the other widths follow.

    Background-event contrast enhancement (BECE):
    bece_enabled: without it there is neither an enhanced feature nor a contrast.
    bece_lambda: λ of Eq. 8. bece_tau: τ of Eq. 7.
    bece_noise: standard deviation of the noise that makes the second view.
    bece_weight: of the contrast in Eq. 12. bece_form: see `contrast.bece_per_view`.
    bece_heads: which heads read the enhanced feature: that of the relevance ("event") or both.
    bece_start: share of the epochs before it starts.

    Source: CACE-Net, sections 3.2, 3.3 and 3.5.
    Differs from the paper's text, as the published results do: see parts/background_suppression.py,
    and BECE starts after an eighth of the epochs.
    """

    title = "CACE-Net"
    lanes = suppression.GATE_LANE

    contrast_on: Tensor

    def __init__(
        self,
        sizes: Sizes,
        *,
        guidance: Guidance = "both",
        beta: float = 0.4,
        psi: float = 0.3,
        alpha: float = 0.1,
        gamma: float = 0.3,
        bece_enabled: bool = True,
        bece_lambda: float = 0.6,
        bece_tau: float = 0.01,
        bece_noise: float = 0.1,
        bece_weight: float = 1.0,
        bece_form: ContrastForm = "paper",
        bece_heads: Heads = "event",
        bece_start: float = 0.125,
        width: int = 512,
    ) -> None:
        super().__init__(sizes, settings_of(locals()))
        self.gamma = gamma
        self.bece_lambda, self.bece_tau, self.bece_noise = bece_lambda, bece_tau, bece_noise
        self.bece_weight, self.bece_form = bece_weight, bece_form
        self.bece_heads, self.bece_start = bece_heads, bece_start
        self.register_buffer("contrast_on", torch.tensor(False))
        self.network = BackgroundSuppression(
            sizes,
            guidance=guidance,
            beta=beta,
            psi=psi,
            alpha=alpha,
            width=width,
            across_width=width,
        )
        channels = self.network.channels
        self.enhance = nn.Linear(channels, channels) if bece_enabled else None
        self.relevance_head = nn.Linear(channels, 1)
        self.class_head = nn.Linear(channels, sizes.categories)

    def start_epoch(self, progress: float) -> None:
        """Switches the contrast on, after its share of the epochs."""
        self.contrast_on.fill_(self.enhance is not None and progress >= self.bece_start)

    def forward(
        self,
        visual: Float[Tensor, "B T H W V"],
        audio: Float[Tensor, "B T A"],
        noise: Float[Tensor, "B T D"] | None = None,
    ) -> Localization:
        """noise: standard normal, of the second view; drawn here in training if not given."""
        found = self.network(visual, audio)
        with full_precision(audio):
            enhanced, views = self._enhance(found.fused, noise)
            for_category = enhanced if self.bece_heads == "both" else found.fused
            relevance = self.relevance_head(enhanced).squeeze(-1)
            class_logits = self.class_head(for_category.amax(dim=1)).unsqueeze(1)
        return Localization(
            relevance=relevance,
            class_logits=class_logits + self.gamma * found.class_activation.unsqueeze(1),
            attention=found.attention,
            extra={"gate": found.gate, "class_activation": found.class_activation, **views},
        )

    def _enhance(
        self, fused: Float[Tensor, "B T D"], noise: Float[Tensor, "B T D"] | None
    ) -> tuple[Float[Tensor, "B T D"], dict[str, Float[Tensor, "B T D"]]]:
        """The enhanced feature  F + λ ReLU(W F)  (Eq. 8), and the two views of the contrast.

        The views are unit vectors: `query` of the feature, `key` of the same with noise.
        """
        if self.enhance is None:
            return fused, {}
        residual = self.enhance(fused).relu()
        views = {"query": F.normalize(residual, dim=-1)}
        if noise is None and self.training:
            noise = torch.randn_like(fused)
        if noise is not None:
            noisy = self.enhance(fused + self.bece_noise * noise).relu()
            views["key"] = F.normalize(noisy, dim=-1)
        return fused + self.bece_lambda * residual if self.contrast_on else fused, views

    def losses(self, out: Localization, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """The terms of Eq. 12."""
        terms = suppression.suppression_losses(out, batch, self.background)
        terms["contrast"] = out.relevance.new_zeros(())
        if self.contrast_on and "key" in out.extra:
            query, key = out.extra["query"], out.extra["key"]
            is_event = batch.labels != self.background
            contrast = bece_loss(query, key, is_event, self.bece_tau, self.bece_form)
            share = len(batch.labels) / batch.clips
            terms["contrast"] = self.bece_weight * share * contrast
        return terms

    @classmethod
    def authors_format(cls, weights: dict[str, Tensor], settings: dict[str, Any]) -> AuthorsFormat:
        """Of the checkpoints of CACE-Net's repository."""
        guidance = settings.get("guidance", "both")
        guide, second = "network.guidance.guide_audio", "" if guidance == "visual" else "2"
        modules = {
            **authors_names.suppression(visual_norm="v_norm"),
            "enhance": "localize_module.encoder_q.0",
            f"{guide}.within_audio.query": "spatial_channel_att.audio_query",
            f"{guide}.within_audio.key": "spatial_channel_att.audio_key",
            f"{guide}.within_audio.value": "spatial_channel_att.audio_value",
            f"{guide}.audio_norm": "spatial_channel_att.a_norm",
            f"{guide}.query": "spatial_channel_att.v_query",
            f"{guide}.key": "spatial_channel_att.vaudio_key",
            f"{guide}.value": "spatial_channel_att.vaudio_value",
            **{
                f"{guide}.within_grid.{part}": f"spatial_channel_att.video_{part}{second}"
                for part in ("query", "key", "value")
            },
        }
        unused = (*authors_names.UNUSED, "spatial_channel_att.v_norm2.")
        if guidance == "audio":
            unused += _AUDIO_HALF
        elif guidance == "visual":  # that module still has the members of audio guidance
            unused += ("spatial_channel_att.affine_", "spatial_channel_att.ave_")
        return AuthorsFormat(authors_names.sizes(weights), modules, unused)


_AUDIO_HALF = tuple(  # computed in the authors' audio guidance, and multiplied by ψ = 0
    f"spatial_channel_att.{name}."
    for name in (
        *("video_query2", "video_key2", "video_value2", "v_query", "vaudio_key", "vaudio_value"),
        *("audio_query", "audio_key", "audio_value", "a_norm"),
    )
)
