"""DVC stage: encode all segments into the feature store, or convert published features."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from cace.data.annotations import load_annotations
from cace.encoders.audio import audio_encoder
from cace.encoders.visual import VisualEncoder, visual_encoder
from cace.encoders.weights import fingerprint, load_into
from cace.extraction.encode import convert_features, extract_features
from cace.media.store import ClipStore
from cace.settings import EncodersParams, ExtractParams, load_params
from cace.system.device import choose_device
from cace.system.errors import UserError, run
from cace.system.files import expect_file, publish, sha256
from cace.system.scratch import scratch

CLIPS, MEDIA = Path("data/clips"), Path("data/media")
ENCODER, FEATURES = Path("data/models/visual_encoder.pt"), Path("data/features.h5")
# The encoder behind each published file: the paper's Tables 1, 2 and 4.
PUBLISHED = {
    "visual": ("vgg19", "visual_feature.h5"),
    "audio": ("vggish", "audio_feature.h5"),
}


def main() -> None:
    """Encodes with the encoder that `finetune` wrote, or converts."""
    params = load_params()
    if params.encoders is None or params.extract is None:
        convert()
        return
    saved = torch.load(expect_file(ENCODER, made_by="finetune"), weights_only=True)
    if saved["name"] != params.encoders.visual:
        raise UserError(
            f"{ENCODER}: expected {params.encoders.visual}, got {saved['name']}; "
            f"run `dvc repro finetune`"
        )
    visual = visual_encoder(saved["name"], "none")
    load_into(visual, saved["state_dict"], where=str(ENCODER))
    about = {
        "name": saved["name"],
        "weights": saved["weights"],
        "finetuned_epochs": saved["finetune"]["epochs"],
    }
    encode(visual, about, params.encoders, params.extract, FEATURES, params.compute.engine)


def encode(
    visual: VisualEncoder,
    about: dict[str, Any],
    encoders: EncodersParams,
    settings: ExtractParams,
    out: Path,
    engine: str,
) -> None:
    """Writes a store of all clips.

    about: of the visual encoder, for the store's provenance.
    """
    clips = ClipStore(CLIPS)
    device = choose_device()
    audio = audio_encoder(encoders.audio, encoders.audio_weights)
    provenance = {
        "encoders": {
            "visual": {**about, "sha256": fingerprint(visual)},
            "audio": {
                "name": encoders.audio,
                "weights": encoders.audio_weights,
                "sha256": fingerprint(audio),
            },
        },
        "settings": {**clips.settings, "precision": settings.precision},
        "clips_sha256": clips.fingerprint(),
    }
    with scratch("extract", provenance, settings.batch_size) as work:
        extract_features(
            clips,
            visual.to(device),
            audio.to(device),
            work / "features.h5",
            **settings.model_dump(),
            device=device,
            provenance=provenance,
            engine=engine,
        )
        publish(work / "features.h5", out)
    print(f"extract: {json.dumps(provenance['encoders'])}")


def convert() -> None:
    """Writes data/features.h5 from the published feature files."""
    labels_file = expect_file(CLIPS / "labels.npy", made_by="decode")
    manifest = pd.read_csv(expect_file(MEDIA / "manifest.csv", made_by="download"))
    hashes = dict(zip(manifest["file"], manifest["sha256"], strict=True))
    encoders = {
        modality: {"name": name, "weights": "published features", "sha256": hashes[file]}
        for modality, (name, file) in PUBLISHED.items()
    }
    with scratch("extract", hashes, sha256(labels_file)) as work:
        convert_features(
            {modality: MEDIA / file for modality, (_, file) in PUBLISHED.items()},
            load_annotations(CLIPS / "annotations.json"),
            np.load(labels_file),
            work / "features.h5",
            {"encoders": encoders, "settings": {"fps": 16}},
        )
        publish(work / "features.h5", FEATURES)
    print(f"extract: {json.dumps(encoders)}")


if __name__ == "__main__":
    run(main)
