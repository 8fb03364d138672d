"""The processes that train one network together, under Hugging Face Accelerate.

`accelerate launch --multi_gpu` starts them on GPUs, `torchrun` on GPUs and CPUs (on CPUs
`accelerate launch` needs MPI).

Each computes the gradients of its part of a batch; their sum is that of the complete batch. They
are added here and not by a wrapper around the network, so that a process may have no part in a
batch, and weights that are not used yet have no gradient.
"""

import os
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Team:
    """This process among those that train together; the only one without an accelerator.

    index, count: which of how many processes this is. Only the first one writes files.
    """

    def __init__(self, accelerator: Any = None) -> None:
        self.accelerator = accelerator
        self.index: int = accelerator.process_index if accelerator else 0
        self.count: int = accelerator.num_processes if accelerator else 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes."""
        return self.index == 0

    def share(self, value: Any) -> Any:
        """The first process's value, in every process: plain values and tensors."""
        if self.count == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def own(self, count: int) -> slice:
        """Which of `count` items this process computes; empty if there are too few."""
        return slice(count * self.index // self.count, count * (self.index + 1) // self.count)

    def gather(self, rows: Float[Tensor, "own D"], count: int) -> Float[Tensor, "count D"]:
        """The rows of all processes, in order; a gradient flows into this process's own.

        If every process computes the same loss from them, the sum of gradients is right.
        """
        if self.count == 1:
            return rows
        own = self.own(count)
        everyones = torch.zeros(count, rows.shape[1], dtype=rows.dtype, device=rows.device)
        everyones[own] = rows.detach()
        everyones = self.total(everyones)
        return torch.cat([everyones[: own.start], rows, everyones[own.stop :]])

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of the processes' tensors, in every process."""
        return tensor if self.count == 1 else self.accelerator.reduce(tensor, reduction="sum")

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replaces each gradient by its sum over processes; without any, a weight keeps none."""
        if self.count == 1:
            return
        parameters = list(parameters)
        device = parameters[0].device
        there = torch.tensor([float(p.grad is not None) for p in parameters], device=device)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        sums = self.total(torch.cat([there, *(gradient.flatten() for gradient in gradients)]))
        there, *gradients = sums.split([len(parameters), *(p.numel() for p in parameters)])
        for parameter, anywhere, gradient in zip(
            parameters, there.tolist(), gradients, strict=True
        ):
            parameter.grad = gradient.view_as(parameter) if anywhere else None


def assemble() -> Team:
    """The processes that were started together, or only this one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Team()
    from accelerate import Accelerator

    return Team(Accelerator())
