"""The state of a training run, saved so that an interrupted run resumes after its last epoch."""

import io
from pathlib import Path
from typing import Any, Protocol

import torch

from cace.system.files import write_atomically


class Stateful(Protocol):
    """A module, an optimizer or a schedule."""

    def state_dict(self) -> dict[str, Any]:
        """Its complete state, as plain values and tensors."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """Restores such a state."""


def save_state(path: Path, parts: dict[str, Stateful], results: dict[str, Any]) -> None:
    """Writes the parts, the random state and the results so far, completely or not at all.

    results: plain values and tensors.
    """
    content = {
        "parts": {name: part.state_dict() for name, part in parts.items()},
        "results": results,
        "random": torch.get_rng_state(),
        "cuda_random": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getbuffer())


def read_state(path: Path) -> dict[str, Any]:
    """What `save_state` wrote."""
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content


def restore_state(content: dict[str, Any], parts: dict[str, Stateful]) -> dict[str, Any]:
    """Restores the parts and the random state as they were saved; returns the results so far."""
    for name, part in parts.items():
        part.load_state_dict(content["parts"][name])
    torch.set_rng_state(content["random"])
    if content["cuda_random"]:
        torch.cuda.set_rng_state_all(content["cuda_random"])
    results: dict[str, Any] = content["results"]
    return results
