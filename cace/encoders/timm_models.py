"""Any network of the library timm as a visual encoder: its map or its tokens become a grid.

Size, mean, deviation and interpolation of the frames come from the network's own configuration.
"""

import difflib
import math
import sys
import types
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from cace.encoders.hub import hub_file
from cace.encoders.weights import load_into, read_weights
from cace.system.errors import UserError, reason, shown
from cace.system.torch_files import Weights, misfit

PREFIX = "timm/"  # of their names in the settings
HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # the first that a repository has


class Configuration(NamedTuple):
    """How a network was trained, as timm records it."""

    side: int  # pixels of the square frames that it read
    crop_share: float  # the side as a share of the scaled frame's short side
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    license: str | None  # of its pretrained weights


class Grid(nn.Module):
    """A network without its classifier; gives a map of its last features."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.channels: int = network.num_features  # type: ignore[assignment]
        self.prefix: int = getattr(network, "num_prefix_tokens", 0)  # class token, registers

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n V H W"]:
        """images: normalised as in the network's training.

        Raises: UserError if the features have no positions.
        """
        features = self.network.forward_features(images)  # type: ignore[operator]
        if isinstance(features, Tensor):
            if features.ndim == 3:  # tokens, row by row
                tokens = features[:, self.prefix :]
                side = math.isqrt(tokens.shape[1])
                if side**2 == tokens.shape[1]:
                    return tokens.mT.unflatten(2, (side, side))
            if features.ndim == 4:
                last = features.shape[1] != self.channels  # channels
                return features.permute(0, 3, 1, 2) if last else features
        raise UserError(
            f"encoders.visual: {type(self.network).__name__} of timm gives no map of positions, "
            f"which the localizer needs; choose a ViT, Swin, ConvNeXt or ResNet"
        )


def build(model: str) -> Grid:
    """The network with random weights.

    model: its name in timm, with or without the tag of its weights, as `vit_tiny_patch16_224`.
    Raises: UserError if timm is not installed, or knows no such network.
    """
    _expect_known(_timm(), model)
    try:  # a ViT then takes any multiple of its patch; its positions are interpolated
        network = _network(model, dynamic_img_size=True)
    except TypeError:
        return Grid(_network(model))
    side, patch = network.pretrained_cfg["input_size"][-1], network.patch_embed.patch_size[0]
    if side % patch:  # SigLIP's 384 pixels in patches of 14: only that size, and the rest is cut
        network = _network(model)
    return Grid(network)


def _network(model: str, **settings: Any) -> Any:
    """Without its classifier, if it has one."""
    network = _timm().create_model(model, **settings)
    if hasattr(network, "reset_classifier"):
        network.reset_classifier(0)
    return network


def configuration(grid: Grid) -> Configuration:
    """The configuration of a network that `build` made."""
    config: dict[str, Any] = grid.network.pretrained_cfg  # type: ignore[assignment]
    return Configuration(
        config["input_size"][-1],
        config.get("crop_pct") or 1.0,
        config.get("interpolation") or "bicubic",
        tuple(config["mean"]),
        tuple(config["std"]),
        config.get("license"),
    )


def load(grid: Grid, model: str, weights: str) -> None:
    """Loads weights into a network that `build` made.

    weights: pretrained, or the path of a file or of a folder with one.
    Raises: UserError if they are neither here nor available for download, or do not fit.
    """
    path = pretrained_file(grid, model) if weights == "pretrained" else Path(weights)
    tensors = read_weights(path)
    own = _without_classifier(grid.network, tensors)
    # If they do not fit, their names may be those of the library that they come from.
    if misfit(grid.network.state_dict(), own) and (converted := _converted(model, tensors)):
        own = converted
        print(f"weights {path}: converted by timm, which renames and resizes", file=sys.stderr)
    load_into(grid.network, own, where=str(path))


def pretrained_file(grid: Grid, model: str, download: bool = True) -> Path:
    """The file of a network's pretrained weights.

    Raises: UserError if it is not here and `download` is false, or it cannot be downloaded.
    """
    config: dict[str, Any] = grid.network.pretrained_cfg  # type: ignore[assignment]
    repository = config.get("hf_hub_id")
    if not repository:
        raise UserError(
            f"encoders.visual_weights: timm has no pretrained weights of {model}; set "
            f"data/weights/NAME or none"
        )
    named = config.get("hf_hub_filename")
    names = (named,) if named else HUB_FILES
    return hub_file(repository, names, "encoders.visual_weights: ", download)


def _without_classifier(network: nn.Module, tensors: Weights) -> Weights:
    names = network.pretrained_cfg.get("classifier") or ()  # type: ignore[union-attr, operator]
    layers = tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))
    return {key: tensor for key, tensor in tensors.items() if not key.startswith(layers)}


def _converted(model: str, tensors: Weights) -> Weights | None:
    """The tensors under timm's names, if timm knows how to convert them."""
    try:
        overlay = {"state_dict": dict(tensors)}
        network = _network(model, pretrained=True, pretrained_cfg_overlay=overlay)
    except Exception:  # of whatever kind: timm's functions expect files of known libraries
        return None
    return network.state_dict()


def _timm() -> types.ModuleType:
    try:
        import timm
    except Exception as error:  # of whatever kind: one that does not fit the installed torch
        what = f"cannot be imported ({reason(error)})" if find_spec("timm") else "is not installed"
        raise UserError(
            f"encoders.visual: timm {what}; run `pip install -e '.[encoders]'`"
        ) from error
    return timm


def _expect_known(timm: types.ModuleType, model: str) -> None:
    architecture, _, tag = model.partition(".")
    if not timm.is_model(architecture):
        known, near = timm.list_models(), architecture
    elif tag and model not in (known := timm.list_pretrained(f"{architecture}.*")):
        near = model
    else:
        return
    names = difflib.get_close_matches(near, known, 3, cutoff=0.5) or known[:3]
    nearest = f"; the nearest names: {', '.join(PREFIX + name for name in names)}" if names else ""
    raise UserError(f"encoders.visual: timm has no network {shown(model)}{nearest}")
