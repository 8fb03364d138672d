"""EfficientNet-Lite0, the visual encoder that needs no download.

A library has it too, but importing that takes more CPU seconds than localizing a clip. The layers
have that library's names, so that its weight files load.

Source: Tan and Le 2019, "EfficientNet"; the Lite0 variant of its TensorFlow release: no squeeze and
excitation, ReLU6 in the place of swish.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

CHANNELS = 1280
STEM_CHANNELS = 32
EPSILON = 1e-3  # of the batch norms, as in TensorFlow


class Stage(NamedTuple):
    """Blocks of one width; the first of them may halve the resolution."""

    expansion: int  # of the channels inside a block
    channels: int
    blocks: int
    stride: int
    kernel: int


STAGES = (
    Stage(1, 16, 1, 1, 3),
    Stage(6, 24, 2, 2, 3),
    Stage(6, 40, 2, 2, 5),
    Stage(6, 80, 3, 2, 3),
    Stage(6, 112, 3, 1, 5),
    Stage(6, 192, 4, 2, 5),
    Stage(6, 320, 1, 1, 3),
)


class EfficientNetLite0(nn.Module):
    """Without its classifier: a map of 1280 channels with a 32nd of the sides, rounded up."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = SameConv2d(3, STEM_CHANNELS, kernel=3, stride=2)
        self.bn1 = _norm(STEM_CHANNELS)
        stages, width = [], STEM_CHANNELS
        for stage in STAGES:
            blocks = []
            for place in range(stage.blocks):
                block = SeparableBlock if stage.expansion == 1 else InvertedResidual
                blocks.append(block(width, stage, stride=1 if place else stage.stride))
                width = stage.channels
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.conv_head = SameConv2d(width, CHANNELS, kernel=1)
        self.bn2 = _norm(CHANNELS)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 1280 H W"]:
        """images: normalised to mean 0.5 and deviation 0.5; in float32 also for bfloat16."""
        # Rounding in these layers does most of the harm: the features' cosine is 0.995, not 0.999.
        with torch.autocast(images.device.type, enabled=False):
            x = self.blocks[0](_relu6(self.bn1(self.conv_stem(images))))
        return _relu6(self.bn2(self.conv_head(self.blocks[1:](x))))


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow does: the output has the input's side over the stride.

    An odd padding is larger at the bottom and on the right.
    """

    def __init__(
        self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(channels, out, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n o H W"]:
        """x: of any size."""
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        rows, columns = (
            max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[2:]
        )
        if rows or columns:
            x = F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
        return super().forward(x)


class SeparableBlock(nn.Module):
    """A convolution within each channel, then one across channels."""

    def __init__(self, channels: int, stage: Stage, stride: int) -> None:
        super().__init__()
        self.conv_dw = SameConv2d(channels, channels, stage.kernel, stride, groups=channels)
        self.bn1 = _norm(channels)
        self.conv_pw = SameConv2d(channels, stage.channels, kernel=1)
        self.bn2 = _norm(stage.channels)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n o H W"]:
        """Without a residual: the number of channels changes."""
        return self.bn2(self.conv_pw(_relu6(self.bn1(self.conv_dw(x)))))


class InvertedResidual(nn.Module):
    """Channels are expanded, filtered one by one, and reduced again; the input is added."""

    def __init__(self, channels: int, stage: Stage, stride: int) -> None:
        super().__init__()
        inside = stage.expansion * channels
        self.conv_pw = SameConv2d(channels, inside, kernel=1)
        self.bn1 = _norm(inside)
        self.conv_dw = SameConv2d(inside, inside, stage.kernel, stride, groups=inside)
        self.bn2 = _norm(inside)
        self.conv_pwl = SameConv2d(inside, stage.channels, kernel=1)
        self.bn3 = _norm(stage.channels)
        self.residual = stride == 1 and channels == stage.channels

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n o H W"]:
        """The input is added where the shapes agree."""
        y = _relu6(self.bn1(self.conv_pw(x)))
        y = _relu6(self.bn2(self.conv_dw(y)))
        y = self.bn3(self.conv_pwl(y))
        return x + y if self.residual else y


def _relu6(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """In place: at test time, writing a new tensor took a seventh of the time on a CPU."""
    return F.relu6(x, inplace=True)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=EPSILON)
