"""Localizers: from the features of a clip to its events. One method, one file.

The module of a method has the name of `localizer.name`, and its class the same name in CamelCase:
`cace_net.CaceNet`. Each has a section of settings in cace/settings/methods.py.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cace.localizers.parts.protocol import Localizer


def localizer_class(name: str) -> "type[Localizer]":
    """The class of a method, by the name of its module."""
    module = importlib.import_module(f"cace.localizers.{name}")
    found: type[Localizer] = getattr(module, name.title().replace("_", ""))
    return found


def load_checkpoint(path: Path | str, localizer: str | None = None, **settings: Any) -> "Localizer":
    """The localizer of a checkpoint, in eval mode and in the file's precision.

    path: a file that `train` wrote, which names its method; or a checkpoint of a method's authors,
        a plain state dict.
    localizer: the method. Of an authors' checkpoint, CACE-Net if it is not given.
    settings: of an authors' checkpoint, which does not contain them: arguments of the method's
        constructor, such as guidance, beta, psi and bece_lambda of CACE-Net.
    Raises: UserError if the file is damaged, contains code, or is of another method.
    """
    from cace.localizers.parts import checkpoints

    return checkpoints.read(Path(path), localizer, **settings).localizer
