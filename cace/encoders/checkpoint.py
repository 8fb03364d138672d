"""`data/models/visual_encoder.pt`: the fine-tuned visual encoder, written and read only here."""

import io
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cace.encoders.card import EncoderCard, card_of
from cace.encoders.visual import VisualEncoder, visual_encoder
from cace.encoders.weights import load_into
from cace.system.errors import UserError, shown
from cace.system.files import expect_file, write_atomically
from cace.system.torch_files import read_torch_file

NO_ENCODER = "none"  # the name in the file of a source that has no encoder to fine-tune


class SavedEncoder(NamedTuple):
    """A fine-tuned encoder, in eval mode, and what identifies it."""

    network: VisualEncoder
    card: EncoderCard


def save_encoder(
    path: Path, network: VisualEncoder, pretrained: EncoderCard, settings: dict[str, Any]
) -> None:
    """Writes a fine-tuned encoder.

    pretrained: the encoder before fine-tuning.
    settings: of the fine-tuning, with its number of `epochs`.
    """
    content = {
        "name": pretrained.name,
        "weights": pretrained.weights,
        "license": pretrained.license,
        "pretrained_sha256": pretrained.sha256,
        "finetune": settings,
        "state_dict": {name: tensor.cpu() for name, tensor in network.state_dict().items()},
    }
    _write(path, content)


def save_no_encoder(path: Path) -> None:
    """Writes the file of a source that has features and no clips."""
    _write(path, {"name": NO_ENCODER})


def load_encoder(path: Path, name: str, needed_by: str = "") -> SavedEncoder:
    """Reads an encoder that `save_encoder` wrote.

    name: of the encoder that is expected.
    needed_by: who expects it, for the message.
    Raises: UserError if the file is missing, is not a visual encoder, or is one of another name.
    """
    expect_file(path, made_by="finetune")
    saved = read_torch_file(path)
    try:
        found = saved["name"]
        if found != NO_ENCODER:
            tensors, weights = saved["state_dict"], saved["weights"]
            epochs = saved["finetune"]["epochs"]
    except (IndexError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: expected a visual encoder of `finetune`, got a file without {error}; run "
            f"`dvc repro finetune`"
        ) from error
    if found != name:
        why = f", which {needed_by} needs" if needed_by else ""
        got = shown(found).strip("'")
        raise UserError(f"{path}: expected {name}{why}, got {got}; run `dvc repro finetune`")
    network = visual_encoder(name, "none")
    load_into(network, tensors, where=str(path))
    network.license = saved.get("license")
    return SavedEncoder(network, card_of(network, name, weights, epochs))


def _write(path: Path, content: dict[str, Any]) -> None:
    # Through memory: torch.save would write the file's name into it.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())
