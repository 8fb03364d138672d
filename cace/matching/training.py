"""Trains a matcher, and chooses windows with it."""

import math

import numpy as np
import torch
from jaxtyping import Int

from cace.matching.clips import Clips
from cace.matching.protocol import Matcher, Modality
from cace.matching.windows import Partial
from cace.settings import Count, Positive, Section
from cace.system.errors import UserError
from cace.system.workers import epoch_bar, report_epoch


class Schedule(Section):
    """How long and how fast a matcher learns."""

    epochs: Count  # the last one is kept
    batch_size: Count  # pairs of segments, or clips, as the matcher is trained
    learning_rate: Positive  # of Adam, the same in all epochs


def train(matcher: Matcher, clips: Clips, schedule: Schedule, what: str) -> None:
    """Trains a matcher on all clips, also on those without a partial event.

    what: names the run on the progress bar.
    Raises: UserError if the loss is not finite.
    """
    inputs = [*clips]
    if matcher.by_segment:
        inputs = [values.flatten(0, 1).unsqueeze(1) for values in inputs]
    optimizer = torch.optim.Adam(matcher.parameters(), lr=schedule.learning_rate, fused=True)
    matcher.train()
    for epoch in (bar := epoch_bar(range(schedule.epochs), what, position=0)):
        total = torch.zeros((), device=clips.visual.device)
        for places in torch.randperm(len(inputs[0])).split(schedule.batch_size):
            loss = matcher.loss(*(values[places.to(values.device)] for values in inputs))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(places)
        mean = total.item() / len(inputs[0])
        if not math.isfinite(mean):
            raise UserError(
                f"{what}, {epoch=}: the loss is {mean}; lower the learning rate in "
                f"matching/settings, or look for NaN in the features"
            )
        report_epoch(bar, what, epoch + 1, f"loss {mean:.4f}")
    matcher.eval()


@torch.inference_mode()
def choose(
    matcher: Matcher, clips: Clips, partial: Partial, modality: Modality
) -> Int[np.ndarray, " n"]:
    """The start of the window that fits best in each clip; of equals the first.

    clips: those of `partial`, in the same order.
    modality: the given one; the other one is searched.
    """
    given, searched = clips.audio, clips.visual
    if modality == "visual":
        given, searched = searched, given
    starts = []
    for clip, (start, length) in enumerate(zip(partial.start, partial.length, strict=True)):
        event = given[clip, start : start + length]
        starts.append(matcher.fits(event, searched[clip], modality).cpu().numpy().argmax())
    return np.array(starts)
