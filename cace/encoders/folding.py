"""Makes batch normalisation part of the convolution before it: encoding is faster."""

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from cace.system.errors import UserError

TOLERANCE = 1e-4  # of the largest output; float32 gives differences of about 1e-5


@torch.no_grad()
def fold_norms(network: nn.Module, example: Tensor) -> int:
    """Folds each batch normalisation into the convolution that it directly follows, in place.

    At test time, batch normalisation multiplies and shifts each channel by constants. A convolution
    can do that as well. Features change only in the last digits of float32. The network cannot be
    trained further.

    example: an input; a run on it shows which layer follows which.
    Returns: how many were folded.
    Raises: UserError if the network then computes something else.
    Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference", section 3.2.
    """
    outputs: dict[int, tuple[nn.Module, Tensor]] = {}  # kept: ids of freed ones recur
    pairs: list[tuple[nn.Module, nn.Module]] = []

    def note(conv: nn.Module, _: object, output: Tensor) -> None:
        outputs[id(output)] = conv, output

    def match(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if found := outputs.get(id(inputs[0])):
            pairs.append((found[0], norm))

    names = {module: name for name, module in network.named_modules()}
    hooks = [m.register_forward_hook(note) for m in names if isinstance(m, nn.Conv2d)]
    # Not of subclasses, which may do more than normalise.
    hooks += [m.register_forward_pre_hook(match) for m in names if type(m) is nn.BatchNorm2d]
    before = network(example)
    for hook in hooks:
        hook.remove()
    for conv, norm in pairs:
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        mean, variance = norm.running_mean, norm.running_var
        if mean is None or variance is None:  # it uses those of the batch, also at test time
            continue
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, mean, variance, norm.eps, norm.weight, norm.bias
        )
        parent, _, name = names[norm].rpartition(".")
        setattr(network.get_submodule(parent), name, nn.Identity())
    difference = (network(example) - before).abs().max().item()
    if not difference <= TOLERANCE * before.abs().max().item():
        raise UserError(
            f"extract.fold: {type(network).__name__} computes other features with batch "
            f"normalisation in its convolutions (largest difference {difference:.2g}); set it to "
            f"false"
        )
    return len(pairs)
