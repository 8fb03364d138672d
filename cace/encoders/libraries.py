"""Where the files of encoders are that come from the user or from a library."""

from pathlib import Path

import torch

from cace.encoders import timm_models, transformers_models
from cace.encoders.weights import find_weights
from cace.paths import WEIGHTS


def needs_files(name: str, weights: str) -> bool:
    """Whether an encoder is one of timm or transformers, or has weights from a file of the user."""
    is_of_library = name.startswith((timm_models.PREFIX, transformers_models.PREFIX))
    return is_of_library or Path(weights).is_relative_to(WEIGHTS)


def place_of(name: str, weights: str) -> Path | None:
    """The file or folder that an encoder that `needs_files` is read from; None if it reads none.

    Raises: UserError if it is not here, or the library is not installed or knows no such network.
    """
    library, _, model = name.partition("/")
    if f"{library}/" == timm_models.PREFIX:
        with torch.device("meta"):
            grid = timm_models.build(model)
        if weights == "pretrained":
            return timm_models.pretrained_file(grid, model, download=False)
        return None if weights == "none" else find_weights(Path(weights))
    if f"{library}/" != transformers_models.PREFIX:
        return find_weights(Path(weights))
    return transformers_models.folder_of(model, weights, download=False)
