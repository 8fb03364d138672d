"""DVC stage: fine-tune the visual encoder by audio-visual contrast on the train split."""

import io
from pathlib import Path

import pandas as pd
import torch

from cace.annotations import Annotations
from cace.clips import ClipStore
from cace.device import choose_device
from cace.encoders.audio import audio_encoder
from cace.encoders.visual import visual_encoder
from cace.encoders.weights import fingerprint
from cace.errors import UserError, run
from cace.finetuning import finetune
from cace.params import load_params
from cace.workspace import write_atomically, write_json


def main() -> None:
    """Writes the encoder, its retrieval before and after, and the curve."""
    params = load_params()
    clips = ClipStore(Path("data/clips"))
    device = choose_device()
    encoders, settings = params.encoders, params.finetune
    encoder = visual_encoder(encoders.visual, encoders.visual_weights).to(device)
    pretrained = fingerprint(encoder)
    train, val = (clips_only_in(clips, split) for split in ("train", "val"))
    audio = audio_encoder(encoders.audio, encoders.audio_weights).to(device)
    curve = finetune(encoder, audio, clips, train, val, **settings.model_dump(), device=device)

    buffer = io.BytesIO()  # a file's bytes would depend on its name
    content = {
        "name": encoders.visual,
        "weights": encoders.visual_weights,
        "pretrained_sha256": pretrained,
        "finetune": settings.model_dump(),
        "state_dict": {name: tensor.cpu() for name, tensor in encoder.state_dict().items()},
    }
    torch.save(content, buffer)
    write_atomically(Path("data/models/visual_encoder.pt"), buffer.getvalue())
    write_atomically(Path("metrics/finetune.csv"), pd.DataFrame(curve).to_csv(index=False))
    recalls = {
        when: {"recall_at_1": epoch.recall_at_1, "recall_at_5": epoch.recall_at_5}
        for when, epoch in (("before", curve[0]), ("after", curve[-1]))
    }
    counts = {"train_clips": len(train), "val_clips": len(val)}
    write_json(Path("metrics/finetune.json"), {"finetune": {**recalls, **counts}})


def clips_only_in(clips: ClipStore, split: str) -> list[str]:
    """Usable clips with rows in this split alone: in AVE a few files stand in two splits."""
    annotations: Annotations = clips.annotations
    elsewhere = {row.id for row in annotations.rows if row.split != split}
    ids = [i for i in annotations.ids if i not in elsewhere and clips.usable(i)]
    if not ids:
        raise UserError(f"data/clips: expected usable clips in split {split}, got none")
    return ids


if __name__ == "__main__":
    run(main)
