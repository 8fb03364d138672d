"""DVC stage: fine-tune the visual encoder by audio-visual contrast on the train split.

Source released has no encoder to train: the stage only records that.
"""

from cace.data.annotations import load_annotations
from cace.encoders.audio import audio_encoder
from cace.encoders.card import card_of
from cace.encoders.visual import visual_encoder
from cace.finetuning.processes import assemble
from cace.finetuning.run import Outputs, finetune_encoder, pass_by
from cace.media.store import ClipStore
from cace.paths import CLIPS, FINETUNE_CURVE, FINETUNE_METRICS, VISUAL_ENCODER
from cace.settings import load_params
from cace.system.device import choose_device
from cace.system.errors import run

OUT = Outputs(VISUAL_ENCODER, FINETUNE_CURVE, FINETUNE_METRICS)


def main() -> None:
    """Fine-tunes, or records that there is nothing to fine-tune."""
    params = load_params()
    encoders, settings = params.encoders, params.finetune
    team = assemble()
    if encoders is not None and settings is not None:
        clips, annotations = ClipStore(CLIPS), load_annotations(CLIPS / "annotations.json")
        device = choose_device()
        visual = visual_encoder(encoders.visual, encoders.visual_weights)
        audio = audio_encoder(encoders.audio, encoders.audio_weights)
        finetune_encoder(
            visual,
            audio,
            card_of(visual, encoders.visual, encoders.visual_weights),
            card_of(audio, encoders.audio, encoders.audio_weights),
            clips,
            annotations,
            OUT,
            device=device,
            team=team,
            **settings.model_dump(),
        )
    elif team.leads:
        pass_by(params.data.source, OUT)


if __name__ == "__main__":
    run(main)
