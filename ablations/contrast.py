"""What the contrast of a trained CACE-Net does: its excess, and its share of the gradient."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cace.features.batches import Batch, Split
from cace.localizers.cace_net import CaceNet
from cace.localizers.parts.contrast import bece_floor, bece_loss


class Contrast(NamedTuple):
    """Of one localizer on train, or means over several; None if the contrast is off."""

    excess: float | None  # of the contrast over its lowest possible value
    gradient: float | None  # share of the gradient's norm: |contrast| / (|contrast| + |others|)


def measure(localizer: CaceNet, train: Split, batch_size: int) -> Contrast:
    """As in training: with dropout, and with the noise of the second view, drawn from seed 0."""
    if not localizer.contrast_on:
        return Contrast(None, None)
    localizer.train()
    torch.manual_seed(0)
    excess = sum(_excess(localizer, batch) * batch.clips for batch in train.batches(batch_size))
    first = next(train.batches(batch_size))
    return Contrast(excess / len(train), gradient_share(localizer, first))


def mean(contrasts: list[Contrast]) -> Contrast:
    """Over seeds."""
    if contrasts[0].excess is None:
        return Contrast(None, None)
    excess, gradient = np.mean(np.array(contrasts, float), axis=0).tolist()
    return Contrast(excess, gradient)


@torch.no_grad()
def _excess(localizer: CaceNet, batch: Batch) -> float:
    extra = localizer(batch.visual, batch.audio).extra
    is_event = batch.labels != localizer.background
    loss = bece_loss(
        extra["query"], extra["key"], is_event, localizer.bece_tau, localizer.bece_form
    )
    return loss.item() - bece_floor(is_event)


def gradient_share(localizer: CaceNet, batch: Batch) -> float:
    """Of the weighted contrast."""
    terms = localizer.losses(localizer(batch.visual, batch.audio), batch)
    contrast = terms.pop("contrast")
    own, others = (
        _gradient_norm(localizer, loss) for loss in (contrast, torch.stack([*terms.values()]).sum())
    )
    return (own / (own + others)).item()


def _gradient_norm(localizer: CaceNet, loss: Tensor) -> Tensor:
    gradients = torch.autograd.grad(
        loss, list(localizer.parameters()), retain_graph=True, allow_unused=True
    )
    return torch.cat([g.flatten() for g in gradients if g is not None]).norm()
