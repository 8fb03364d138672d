"""DVC stage: encode all segments into the feature store."""

import json
from pathlib import Path

import torch

from cace.clips import ClipStore
from cace.device import choose_device
from cace.encoders.audio import audio_encoder
from cace.encoders.visual import visual_encoder
from cace.encoders.weights import fingerprint, load_into
from cace.errors import UserError, run
from cace.extraction import extract_features
from cace.params import load_params
from cace.workspace import expect_file, publish, scratch, sha256

ENCODER = Path("data/models/visual_encoder.pt")


def main() -> None:
    """Loads both encoders, and writes data/features.h5."""
    params = load_params()
    clips = ClipStore(Path("data/clips"))
    device = choose_device()
    saved = torch.load(expect_file(ENCODER, made_by="finetune"), weights_only=True)
    if saved["name"] != params.encoders.visual:
        raise UserError(
            f"{ENCODER}: expected {params.encoders.visual}, got {saved['name']}; "
            f"run `dvc repro finetune`"
        )
    visual = visual_encoder(saved["name"], "none")
    load_into(visual, saved["state_dict"], where=str(ENCODER))
    audio = audio_encoder(params.encoders.audio, params.encoders.audio_weights)
    epochs = saved["finetune"]["epochs"]
    provenance = {
        "encoders": {
            "visual": {
                "name": saved["name"],
                "weights": saved["weights"],
                "finetuned_epochs": epochs,
                "sha256": fingerprint(visual),
            },
            "audio": {
                "name": params.encoders.audio,
                "weights": params.encoders.audio_weights,
                "sha256": fingerprint(audio),
            },
        },
        "settings": {**clips.settings, "precision": params.extract.precision},
    }
    shards = {path.name: sha256(path) for path in sorted(clips.folder.iterdir())}
    with scratch("extract", shards, provenance, params.extract.batch_size) as work:
        extract_features(
            clips,
            visual.to(device),
            audio.to(device),
            work / "features.h5",
            **params.extract.model_dump(),
            device=device,
            provenance=provenance,
        )
        publish(work / "features.h5", Path("data/features.h5"))
    print(f"extract: {json.dumps(provenance['encoders'])}")


if __name__ == "__main__":
    run(main)
