"""CMBS (Xia and Zhao, CVPR 2022): cross-modal background suppression."""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from cace.features.batches import Batch
from cace.localizers.parts import authors_names
from cace.localizers.parts import background_suppression as suppression
from cace.localizers.parts.background_suppression import BackgroundSuppression
from cace.localizers.parts.protocol import (
    AuthorsFormat,
    Localization,
    Localizer,
    Sizes,
    full_precision,
    settings_of,
)


class Cmbs(Localizer):
    """CMBS on stored features: sound guides vision, and each modality suppresses background.

    alpha, gamma: weights of the cross gates and of the class activation.
    beta: weight of the calibrated visual feature.
    width: channels of the visual branch, from which the other widths follow.

    Source: the released code of CMBS, supervised.
    Differs from the paper's text, as that code does: its attention is that of CACE-Net's
    audio-guided half.
    """

    title = "CMBS"
    lanes = suppression.GATE_LANE

    def __init__(
        self,
        sizes: Sizes,
        *,
        alpha: float = 0.1,
        beta: float = 0.4,
        gamma: float = 0.3,
        width: int = 512,
    ) -> None:
        super().__init__(sizes, settings_of(locals()))
        self.gamma = gamma
        self.network = BackgroundSuppression(
            sizes,
            guidance="audio",
            beta=beta,
            psi=0.0,
            alpha=alpha,
            width=width,
            across_width=2 * width,
        )
        self.relevance_head = nn.Linear(self.network.channels, 1)
        self.class_head = nn.Linear(self.network.channels, sizes.categories)

    def forward(
        self, visual: Float[Tensor, "B T H W V"], audio: Float[Tensor, "B T A"]
    ) -> Localization:
        """Features as they are stored."""
        found = self.network(visual, audio)
        with full_precision(audio):
            relevance = self.relevance_head(found.fused).squeeze(-1)
            class_logits = self.class_head(found.fused.amax(dim=1)).unsqueeze(1)
        return Localization(
            relevance=relevance,
            class_logits=class_logits + self.gamma * found.class_activation.unsqueeze(1),
            attention=found.attention,
            extra={"gate": found.gate, "class_activation": found.class_activation},
        )

    def losses(self, out: Localization, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Of the two heads, the gate and the class activation."""
        return suppression.suppression_losses(out, batch, self.background)

    @classmethod
    def authors_format(cls, weights: dict[str, Tensor], settings: dict[str, Any]) -> AuthorsFormat:
        """Of the checkpoints of CMBS's repository."""
        modules = authors_names.suppression(visual_norm="norm")
        unused = (*authors_names.UNUSED, "video_norm.", "audio_norm.")
        return AuthorsFormat(authors_names.sizes(weights), modules, unused)
