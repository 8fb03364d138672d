"""Fine-tunes the visual encoder on the decoded clips and writes it, with its retrieval."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch

from cace.data.annotations import Annotations
from cace.encoders.audio import AudioEncoder
from cace.encoders.card import EncoderCard
from cace.encoders.checkpoint import save_encoder, save_no_encoder
from cace.encoders.visual import VisualEncoder
from cace.finetuning.contrast import Epoch, finetune
from cace.finetuning.processes import Team
from cace.media.store import ClipStore
from cace.system.errors import UserError
from cace.system.files import publish, write_atomically, write_json
from cace.system.scratch import remove_recorded, scratch


class Outputs(NamedTuple):
    """The files to write."""

    encoder: Path
    curve: Path
    metrics: Path


def finetune_encoder(
    visual: VisualEncoder,
    audio: AudioEncoder,
    pretrained: EncoderCard,
    audio_card: EncoderCard,
    clips: ClipStore,
    annotations: Annotations,
    out: Outputs,
    *,
    device: torch.device,
    team: Team,
    **settings: Any,
) -> None:
    """Writes the fine-tuned encoder, its retrieval before and after, and the curve.

    pretrained: the card of `visual`, which is trained in place.
    team: all its processes call this, and the first writes.
    settings: the other keywords of `finetune`.
    """
    train, val = (clips_only_in(split, clips, annotations) for split in ("train", "val"))
    inputs = clips.fingerprint(), pretrained.as_json(), audio_card.as_json(), settings
    folder = scratch("finetune", *inputs) if team.leads else nullcontext(Path())
    with folder as work:
        curve = finetune(
            visual.to(device),
            audio.to(device),
            clips,
            train,
            val,
            state=work / "state.pt",
            **settings,
            device=device,
            team=team,
        )
        if not team.leads:
            return
        save_encoder(work / out.encoder.name, visual, pretrained, settings)
        publish(work / out.encoder.name, out.encoder)
        write_atomically(out.curve, pd.DataFrame(curve).to_csv(index=False))
        recalls = {
            when: {"recall_at_1": epoch.recall_at_1, "recall_at_5": epoch.recall_at_5}
            for when, epoch in (("before", curve[0]), ("after", curve[-1]))
        }
        counts = {"train_clips": len(train), "val_clips": len(val)}
        write_json(out.metrics, {"finetune": {**recalls, **counts}})


def pass_by(source: str, out: Outputs) -> None:
    """Writes the files of a source that has no encoder to fine-tune."""
    remove_recorded("dvc.yaml:finetune")
    save_no_encoder(out.encoder)
    write_atomically(out.curve, pd.DataFrame(columns=Epoch._fields).to_csv(index=False))
    why = f"nothing was fine-tuned: source {source} has features, no clips"
    write_json(out.metrics, {"finetune": {"passed": why}})


def clips_only_in(split: str, clips: ClipStore, annotations: Annotations) -> list[str]:
    """Usable clips with rows only in this split: in AVE a few files have rows in two splits."""
    elsewhere = {row.id for row in annotations.rows if row.split != split}
    ids = [i for i in annotations.ids if i not in elsewhere and clips.usable(i)]
    if not ids:
        raise UserError(f"{clips.folder}: expected usable clips in split {split}, got none")
    return ids
