"""Small untrained models that localize at once."""

from pathlib import Path
from typing import Any

import torch

from cace.encoders.visual import visual_encoder
from cace.encoders.weights import fingerprint
from cace.localizers.avel import Avel
from cace.localizers.cace_net import CaceNet
from cace.localizers.parts import checkpoints
from cace.localizers.parts.protocol import Sizes

FRAMES = {"fps": 2, "short_side": 68, "crop": 64, "jpeg_quality": 90, "precision": "float32"}
CATEGORIES = ["bell", "dog", "horn"]
SIZES = Sizes(visual_channels=1280, audio_channels=128, categories=3, positions=4)


def write_model(folder: Path, **about: Any) -> Path:
    """Two untrained seeds of CACE-Net and one of AVEL, behind real encoders without fine-tuning.

    about: replaces or adds values that the checkpoints contain about their training.
    """
    encoders = {
        "visual": {
            "name": "efficientnet_lite0",
            "weights": "imagenet",
            "finetuned_epochs": 0,
            "sha256": fingerprint(visual_encoder("efficientnet_lite0", "imagenet")),
        },
        "audio": {"name": "logmel", "weights": "none"},
    }
    about = {"categories": CATEGORIES, "encoders": encoders, "frames": FRAMES, **about}
    for seed in range(2):
        torch.manual_seed(seed)
        localizer = CaceNet(SIZES, width=32)
        localizer.start_epoch(1.0)
        checkpoints.save(folder / f"seed-{seed}/best.pt", "cace_net", localizer, about)
    checkpoints.save(folder / "avel.pt", "avel", Avel(SIZES, width=16), about)
    return folder
