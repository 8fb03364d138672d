"""DVC stage of the ablations: features of a visual encoder that Table 3 compares."""

import argparse
import json
from pathlib import Path

from cace.data.annotations import load_annotations
from cace.encoders.audio import audio_encoder
from cace.encoders.card import card_of
from cace.encoders.visual import visual_encoder
from cace.extraction.encode import encode
from cace.extraction.provenance import EncoderCards
from cace.media.store import ClipStore
from cace.paths import CLIPS
from cace.settings import Params, load_params
from cace.system.device import choose_device
from cace.system.errors import run
from cace.system.files import write_atomically


def main() -> None:
    """Writes data/ablations/<weights>/: the store, or why this source has none."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", choices=("random", "pretrained"))
    weights = parser.parse_args().weights
    params = load_params()
    encoders, settings = params.encoders, params.extract
    out = Path("data/ablations") / weights
    if reason := not_run(weights, params):
        write_atomically(out / "not_run.txt", f"{reason}\n")
    elif encoders is not None and settings is not None:
        clips, annotations = ClipStore(CLIPS), load_annotations(CLIPS / "annotations.json")
        named = "none" if weights == "random" else encoders.visual_weights
        visual = visual_encoder(encoders.visual, named)
        audio = audio_encoder(encoders.audio, encoders.audio_weights)
        cards = EncoderCards(
            card_of(visual, encoders.visual, named, finetuned_epochs=0),
            card_of(audio, encoders.audio, encoders.audio_weights),
        )
        encode(
            clips,
            annotations,
            visual,
            audio,
            cards,
            out / "features.h5",
            **settings.model_dump(),
            device=choose_device(),
            engine=params.compute.engine,
            work_name="ablations-encode",
            stage="ablations/dvc.yaml:encode",
        )
        print(f"extract: {json.dumps(cards.as_json())}")


def not_run(weights: str, params: Params) -> str | None:
    """Why a source has no such store, or None if it has one."""
    if params.encoders is None:
        return f"source {params.data.source} has finished features and no frames"
    if weights == "random" and params.data.source == "ave":
        return "the encoders of the paper's row are those of source released"
    return None


if __name__ == "__main__":
    run(main)
