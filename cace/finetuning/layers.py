"""Which part of an encoder is trained: all of it, or its last layers."""

import re

from torch import nn

from cace.system.errors import UserError


def train_last(encoder: nn.Module, layers: int | None) -> None:
    """Freezes all weights before the last `layers` of the encoder.

    A layer is what a network repeats and numbers: a transformer's block, a residual block, a stage,
    or a convolution of VGG. Weights after the last of them, such as a norm, are trained.

    layers: None for all of the encoder.
    Raises: UserError if it has fewer layers.
    """
    if layers is None:
        return
    weights = dict(encoder.named_parameters())
    # The name of a layer: all up to the first part that is a number.
    number = re.compile(r"(?:[^.]+\.)+?\d+(?=\.)")
    layer_of = {name: found[0] for name in weights if (found := number.match(name))}
    order = list(dict.fromkeys(layer_of.values()))
    if layers > len(order):
        raise UserError(
            f"finetune.layers: expected at most {len(order)}, the layers of this encoder, or all; "
            f"got {layers}"
        )
    trained = False
    for name, weight in weights.items():
        trained = trained or layer_of.get(name) == order[-layers]
        weight.requires_grad_(trained)
