"""DAM for cross-modality localization (Wu et al., ICCV 2019). A reconstruction."""

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from cace.localizers.dam import global_feature
from cace.matching.protocol import Channels, Matcher, Modality

WIDTH = 256  # channels of the segments of either modality


class Dam(Matcher):
    """Compares the event, as one feature of the given modality, with each segment of the other.

    Source: DAM's abstract and the caption of its Fig. 2: a global feature from self-attention over
    the segments of the event, whose product with a segment of the other modality says whether the
    event is there.
    Differs, being a reconstruction: the localizer without its class term and without its first
    pass, as the window is given; and the mean over the grid. The localizer's attention would show
    each picture the sound of its second, which is what is searched for.
    """

    title = "DAM"
    by_segment = False
    reconstruction = (
        "dimensions, the attention, the scale of the products, the mean over the grid and the "
        "training are free choices; no code was released"
    )
    fit_means = "the mean probability that its segments belong to the event; 1 is the best"

    def __init__(self, channels: Channels) -> None:
        super().__init__(channels)
        self.visual_input = nn.Linear(channels.visual, WIDTH)
        self.audio_input = nn.Linear(channels.audio, WIDTH)
        self.within_visual = nn.MultiheadAttention(WIDTH, num_heads=1, batch_first=True)
        self.within_audio = nn.MultiheadAttention(WIDTH, num_heads=1, batch_first=True)

    def loss(
        self,
        visual: Float[Tensor, "B T V"],
        audio: Float[Tensor, "B T A"],
        event: Bool[Tensor, "B T"],
    ) -> Float[Tensor, ""]:
        """Cross-entropy of event against background, a mean over segments and directions.

        In a clip without an event, the global features are those of all its segments.
        """
        seen, heard = self.visual_input(visual), self.audio_input(audio)
        asking = event | ~event.any(dim=1, keepdim=True)
        by_sound = _relevance(seen, global_feature(self.within_audio, heard, asking))
        by_picture = _relevance(heard, global_feature(self.within_visual, seen, asking))
        target = event.to(seen.dtype)
        each = [F.binary_cross_entropy_with_logits(x, target) for x in (by_sound, by_picture)]
        return (each[0] + each[1]) / 2

    def fits(
        self, given: Float[Tensor, "L G"], searched: Float[Tensor, "S K"], modality: Modality
    ) -> Float[Tensor, " W"]:
        """The given segments become one global feature."""
        ask = self.audio_input, self.within_audio, self.visual_input
        if modality == "visual":
            ask = self.visual_input, self.within_visual, self.audio_input
        of_given, within, of_searched = ask
        asking = given.new_ones(1, len(given)).bool()
        event = global_feature(within, of_given(given).unsqueeze(0), asking)
        relevance = _relevance(of_searched(searched).unsqueeze(0), event).squeeze(0)
        return relevance.sigmoid().unfold(0, len(given), 1).mean(dim=-1)


def _relevance(
    segments: Float[Tensor, "B T D"], event: Float[Tensor, "B D"]
) -> Float[Tensor, "B T"]:
    """Logit that a segment belongs to the event; divided by √D, so that it starts small."""
    return (segments * event.unsqueeze(1)).sum(dim=-1) * segments.shape[-1] ** -0.5
