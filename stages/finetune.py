"""DVC stage: fine-tune the visual encoder by audio-visual contrast on the train split.

Source released has no encoder to train: the stage says so, and passes.
"""

import io
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from cace.data.annotations import Annotations
from cace.encoders.audio import audio_encoder
from cace.encoders.visual import visual_encoder
from cace.encoders.weights import fingerprint
from cace.finetuning.contrast import Epoch, finetune
from cace.finetuning.processes import Team, assemble
from cace.media.store import ClipStore
from cace.settings import EncodersParams, FinetuneParams, load_params
from cace.system.device import choose_device
from cace.system.errors import UserError, run
from cace.system.files import write_atomically, write_json
from cace.system.scratch import scratch

ENCODER = Path("data/models/visual_encoder.pt")
CURVE, METRICS = Path("metrics/finetune.csv"), Path("metrics/finetune.json")


def main() -> None:
    """Fine-tunes, or passes."""
    params = load_params()
    team = assemble()
    if params.encoders is not None and params.finetune is not None:
        finetune_encoder(params.encoders, params.finetune, team)
    elif team.leads:
        pass_by(params.data.source)


def pass_by(source: str) -> None:
    """Writes what the stage promises, with nothing in it."""
    save(ENCODER, {"name": "none"})
    write_atomically(CURVE, pd.DataFrame(columns=Epoch._fields).to_csv(index=False))
    why = f"nothing was fine-tuned: source {source} has features, no clips"
    write_json(METRICS, {"finetune": {"passed": why}})


def finetune_encoder(encoders: EncodersParams, settings: FinetuneParams, team: Team) -> None:
    """Writes the encoder, its retrieval before and after, and the curve.

    team: all its processes call this, and the first writes.
    """
    clips = ClipStore(Path("data/clips"))
    device = choose_device()
    encoder = visual_encoder(encoders.visual, encoders.visual_weights).to(device)
    pretrained = fingerprint(encoder)
    train, val = (clips_only_in(clips, split) for split in ("train", "val"))
    audio = audio_encoder(encoders.audio, encoders.audio_weights).to(device)
    inputs = clips.fingerprint(), pretrained, fingerprint(audio)
    folder = (
        scratch("finetune", inputs, settings.model_dump()) if team.leads else nullcontext(Path())
    )
    with folder as work:
        curve = finetune(
            encoder,
            audio,
            clips,
            train,
            val,
            state=work / "state.pt",
            **settings.model_dump(),
            device=device,
            team=team,
        )
        if not team.leads:
            return
        content = {
            "name": encoders.visual,
            "weights": encoders.visual_weights,
            "pretrained_sha256": pretrained,
            "finetune": settings.model_dump(),
            "state_dict": {name: tensor.cpu() for name, tensor in encoder.state_dict().items()},
        }
        save(ENCODER, content)
        write_atomically(CURVE, pd.DataFrame(curve).to_csv(index=False))
        recalls = {
            when: {"recall_at_1": epoch.recall_at_1, "recall_at_5": epoch.recall_at_5}
            for when, epoch in (("before", curve[0]), ("after", curve[-1]))
        }
        counts = {"train_clips": len(train), "val_clips": len(val)}
        write_json(METRICS, {"finetune": {**recalls, **counts}})


def save(path: Path, content: dict[str, Any]) -> None:
    """Writes a PyTorch file through memory: a file's bytes would depend on its name."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())


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
