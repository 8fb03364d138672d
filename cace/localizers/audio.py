"""Sound alone: the row "Audio" of CACE-Net's Table 5."""

from jaxtyping import Float
from torch import Tensor

from cace.localizers.parts.protocol import Localization, Sizes, settings_of
from cace.localizers.parts.segment_labels import OneModality


class Audio(OneModality):
    """One of 29 labels for each segment, from its sound and that of the others.

    width: channels of each direction of the LSTM, from which the other widths follow.

    Source: AVEL (Tian et al. 2018), whose paper has this row.
    """

    title = "Audio"
    modalities = ("audio",)

    def __init__(self, sizes: Sizes, *, width: int = 128) -> None:
        super().__init__(sizes, settings_of(locals()), sizes.audio_channels, width)

    def forward(
        self, visual: Float[Tensor, "B T H W V"], audio: Float[Tensor, "B T A"]
    ) -> Localization:
        """Features as they are stored; the visual ones are not read."""
        return self.label(audio)
