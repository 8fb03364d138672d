"""DVC stage: encode all segments into the feature store, or convert the released features."""

import json

from cace.data.annotations import load_annotations
from cace.encoders.audio import audio_encoder
from cace.encoders.card import card_of
from cace.encoders.checkpoint import load_encoder
from cace.extraction.convert import convert
from cace.extraction.encode import encode
from cace.extraction.provenance import EncoderCards
from cace.media.store import ClipStore
from cace.paths import CLIPS, FEATURES, MEDIA, VISUAL_ENCODER
from cace.settings import load_params
from cace.system.device import choose_device, precision_on
from cace.system.errors import run


def main() -> None:
    """Encodes with the encoder that `finetune` wrote, or converts."""
    params = load_params()
    encoders, settings = params.encoders, params.extract
    if encoders is None or settings is None:
        cards = convert(MEDIA, CLIPS, FEATURES)
    else:
        device = choose_device()
        visual = load_encoder(VISUAL_ENCODER, encoders.visual)
        clips, annotations = ClipStore(CLIPS), load_annotations(CLIPS / "annotations.json")
        audio = audio_encoder(encoders.audio, encoders.audio_weights)
        cards = EncoderCards(visual.card, card_of(audio, encoders.audio, encoders.audio_weights))
        encode(
            clips,
            annotations,
            visual.network,
            audio,
            cards,
            FEATURES,
            **settings.model_dump() | {"precision": precision_on(device, settings.precision)},
            device=device,
            engine=params.compute.engine,
        )
    print(f"extract: {json.dumps(cards.as_json())}")


if __name__ == "__main__":
    run(main)
