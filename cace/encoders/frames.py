"""The frames that a visual encoder reads: their size, and whether the size in the settings fits."""

from typing import NamedTuple, get_args

import torch

from cace.encoders import timm_models
from cace.encoders.visual import VisualEncoder, visual_encoder
from cace.media.store import BILINEAR, Frames
from cace.settings import Interpolation
from cace.settings.schema import MOST_PIXELS
from cace.system.errors import UserError, reason

SMALLEST_GRID = 2  # positions on a side: with one, attention has nothing to choose from


class Training(NamedTuple):
    """How the frames that an encoder was trained on were made."""

    side: int  # pixels
    crop_share: float  # the side as a share of the scaled frame's short side
    interpolation: str


# As torchvision's and TensorFlow's weights were trained.
TRAINING = {
    "resnet50": Training(224, 224 / 232, BILINEAR),
    "vgg19": Training(224, 224 / 256, BILINEAR),
    "efficientnet_lite0": Training(224, 224 / 256, BILINEAR),
}


def frames_for(
    encoder: str, short_side: int | None, crop: int | None, grid: int | None = None
) -> Frames:
    """The frames to store for an encoder.

    short_side, crop: in pixels; None: as the encoder was trained.
    grid: positions on a side to which its map is pooled; None: not pooled.
    Raises: UserError if the encoder does not read frames of this size (the message names a size
        that fits), or if its map is smaller than `grid`.
    """
    # On "meta" nothing is computed, and starting it costs more than a pass of a small network.
    large = encoder.startswith(timm_models.PREFIX)
    with torch.device("meta" if large else "cpu"):
        network = visual_encoder(encoder, "none")
    if isinstance(network.body, timm_models.Grid):
        config = timm_models.configuration(network.body)
        known = (
            config.interpolation if config.interpolation in get_args(Interpolation) else "bicubic"
        )
        training = Training(config.side, config.crop_share, known)
    else:
        training = TRAINING[encoder]
    crop = crop or training.side
    fits = f"set {training.side}, or auto"
    if short_side and short_side < training.side:
        scaled = round(training.side / training.crop_share)
        fits = f"set {training.side} and decode.short_side {scaled}, or both to auto"
    try:
        positions = min(map_sides(network, crop))
    except UserError:
        raise
    except Exception as error:  # of whatever layer cannot work with this size
        raise UserError(
            f"decode.crop: {encoder} does not read frames of {crop} pixels ({reason(error)}); "
            f"{fits}"
        ) from error
    if positions < SMALLEST_GRID:
        if crop == training.side:
            raise UserError(
                f"encoders.visual: {encoder} gives one feature, and no map of positions"
            )
        raise UserError(
            f"decode.crop: {crop} pixels leave {encoder} a map of {positions}×{positions}, and "
            f"expected is at least {SMALLEST_GRID}×{SMALLEST_GRID}; {fits}"
        )
    if grid and grid > positions:
        raise UserError(
            f"extract.grid: expected at most {positions}, the side of the map that {encoder} gives "
            f"of {crop} pixels, got {grid}"
        )
    short_side = short_side or round(crop / training.crop_share)
    if short_side < crop:
        raise UserError(
            f"decode.short_side: expected at least decode.crop ({crop}), got {short_side}; set "
            f"{round(crop / training.crop_share)}, or auto"
        )
    if short_side > MOST_PIXELS:
        raise UserError(
            f"decode.short_side: auto is {short_side} for frames of {crop} pixels, and expected is "
            f"at most {MOST_PIXELS}; set decode.crop {int(MOST_PIXELS * training.crop_share)}, or "
            f"auto"
        )
    return Frames(short_side, crop, training.interpolation)


@torch.no_grad()
def map_sides(encoder: VisualEncoder, crop: int) -> tuple[int, int]:
    """Height and width of the map that an encoder gives of frames of `crop` pixels.

    Raises: whatever its layers raise if they cannot work with this size.
    """
    frame = torch.zeros(1, crop, crop, 3, dtype=torch.uint8, device=encoder.mean.device)
    height, width = encoder(frame).shape[2:]
    return height, width
