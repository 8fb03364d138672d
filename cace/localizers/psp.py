"""PSP (Zhou et al., CVPR 2021): positive sample propagation."""

from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cace.features.batches import Batch
from cace.localizers.parts import audio_guided_attention
from cace.localizers.parts.audio_guided_attention import AudioGuidedAttention, xavier_linear
from cace.localizers.parts.losses import label_loss
from cace.localizers.parts.propagation import Propagation, shares
from cace.localizers.parts.protocol import (
    AuthorsFormat,
    Localization,
    Localizer,
    Sizes,
    full_precision,
    localization_of_scores,
    settings_of,
)
from cace.localizers.parts.relation import bidirectional_lstm


class Psp(Localizer):
    """PSP on stored features: only connections of similar segments are kept.

    width: channels of each direction of the LSTMs, from which the other widths follow.
    threshold: τ; a connection with a smaller share of its row is cut. With T segments, a share of
        1/T is that of a row of equal connections.
    pair_weight: of the pair loss.

    Source: the released code of PSP, supervised.
    Differs: in the pair loss, the target of a background segment is 0, as in the paper. The
    released code never resets it: it keeps that of an earlier batch's clip at the same place.
    """

    title = "PSP"
    fixed_grid = True

    def __init__(
        self,
        sizes: Sizes,
        *,
        width: int = 128,
        threshold: float = 0.099,
        pair_weight: float = 100.0,
    ) -> None:
        super().__init__(sizes, settings_of(locals()))
        self.threshold, self.pair_weight = threshold, pair_weight
        self.audio_input = _bottleneck(sizes.audio_channels, width)
        self.attention = AudioGuidedAttention(
            sizes.visual_channels, width, sizes.positions, hidden=4 * width
        )
        self.visual_input = _bottleneck(sizes.visual_channels, width)
        self.audio_lstm = bidirectional_lstm(width, width)
        self.visual_lstm = bidirectional_lstm(width, width)
        self.propagation = Propagation(2 * width, scaled_product, self._strong, norm_eps=1e-6)
        self.hidden = xavier_linear(2 * width, width // 2, bias=False)
        self.scores = xavier_linear(width // 2, sizes.categories + 1, bias=False)

    def forward(
        self, visual: Float[Tensor, "B T H W V"], audio: Float[Tensor, "B T A"]
    ) -> Localization:
        """Features as they are stored."""
        sound = self.audio_input(audio)
        attended = self.attention(visual, sound)
        picture = self.visual_input(attended.visual)
        with full_precision(audio):
            audio_sequence, _ = self.audio_lstm(sound.to(audio.dtype))
            visual_sequence, _ = self.visual_lstm(picture.to(audio.dtype))
            seen, heard = self.propagation(visual_sequence, audio_sequence)
            out = localization_of_scores(
                self.scores(self.hidden((seen + heard) / 2).relu()), attended.attention
            )
            similarity = F.cosine_similarity(seen, heard, dim=-1)
        return out._replace(extra={**out.extra, "similarity": similarity})

    def _strong(self, similar: Float[Tensor, "B T T"]) -> Float[Tensor, "B T T"]:
        """The connections with more than a share τ of their row, as shares again."""
        share = shares(similar)
        return shares(share * (share > self.threshold))

    def losses(self, out: Localization, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Of the labels, and of the pairs: the similarity is to be shared by the event segments.

        Weak supervision does not know these segments, and has no term of the pairs.
        """
        segments = {"segments": label_loss(out.extra["scores"], batch)}
        if batch.tags_only:
            return segments
        event = (batch.labels != self.background).to(out.relevance.dtype)
        found = shares(out.extra["similarity"].relu())
        wanted = event / event.sum(dim=1, keepdim=True).clamp(min=1)
        pairs = F.mse_loss(found, wanted, reduction="sum") / (event.shape[1] * batch.clips)
        return {**segments, "pairs": self.pair_weight * pairs}

    @classmethod
    def authors_format(cls, weights: dict[str, Tensor], settings: dict[str, Any]) -> AuthorsFormat:
        """Of a plain state dict with the keys of PSP's repository."""
        modules = {
            "audio_input": "fa",
            "visual_input": "fv",
            **{
                ours: f"attention.{theirs}"
                for ours, theirs in audio_guided_attention.AUTHORS_MODULES.items()
            },
            "audio_lstm": "lstm_a_v.lstm_audio",
            "visual_lstm": "lstm_a_v.lstm_video",
            "propagation.visual_source.0": "psp.v_L1",
            "propagation.visual_match.0": "psp.v_L2",
            "propagation.audio_match.0": "psp.a_L1",
            "propagation.audio_source.0": "psp.a_L2",
            "propagation.visual_out.0": "psp.v_fc",
            "propagation.audio_out.0": "psp.a_fc",
            "propagation.norm": "psp.layer_norm",
            "hidden": "L1",
            "scores": "L2",
        }
        sizes = audio_guided_attention.authors_sizes(
            weights, sound="fa.0.weight", attention="attention."
        )
        unused = ("linear_v.", "v_classify.", "a_classify.", "L3.", "L4.")
        return AuthorsFormat(sizes, modules, unused)


def scaled_product(
    visual: Float[Tensor, "B T D"], audio: Float[Tensor, "B T D"]
) -> Float[Tensor, "B T T"]:
    """How similar each visual segment is to each audio one; not negative."""
    return (visual @ audio.mT / visual.shape[-1] ** 0.5).relu()


def _bottleneck(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(channels, 2 * width, bias=False), nn.Linear(2 * width, width, bias=False)
    )
