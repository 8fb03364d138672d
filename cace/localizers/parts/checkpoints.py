"""Saves and loads a trained localizer, ours or one of a method's authors.

Our checkpoint is a PyTorch file of plain values: `format`, `localizer` (name of the method),
`sizes` and `settings` (of its constructor), `about` (categories, encoders, epoch, ...), `weights`.
`about` also has `source`, the data source of the training clips, and `trained_categories`, those of
the categories that had training clips. Older checkpoints and those of authors lack both: unknown.
Loading never runs code from a file.
"""

import inspect
import io
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cace.localizers import localizer_class
from cace.localizers.parts.protocol import AuthorsFormat, Localizer, Sizes
from cace.settings import LOCALIZERS
from cace.system.errors import UserError
from cace.system.files import expect_file, write_atomically

FORMAT = "cace-localizer-2"
FIRST_FORMAT = "cace-localizer-1"  # only of CACE-Net
AUTHORS_DEFAULT = "cace_net"


class Checkpoint(NamedTuple):
    """A trained localizer in eval mode, and what is known about it."""

    name: str  # of the method
    localizer: Localizer
    about: dict[str, Any]  # empty for a checkpoint of the authors


def build(name: str, sizes: Sizes, *, where: str = "settings", **settings: Any) -> Localizer:
    """An untrained localizer.

    name: of the method, one of the values of `localizer.name`.
    where: names the origin of the settings in messages.
    settings: of its constructor.
    Raises: UserError if there is no such method or setting.
    """
    method = _method(name, where)
    known = [key for key in inspect.signature(method).parameters if key != "sizes"]
    if strange := sorted(set(settings) - set(known)):
        raise UserError(
            f"{where}: {method.title} has no setting {', '.join(strange)}; expected some of "
            f"{', '.join(known)}"
        )
    return method(sizes, **settings)


def _method(name: str, where: str) -> type[Localizer]:
    if name not in LOCALIZERS:
        raise UserError(f"{where}: expected a localizer of {', '.join(LOCALIZERS)}, got {name!r}")
    return localizer_class(name)


def save(path: Path, name: str, localizer: Localizer, about: dict[str, Any]) -> None:
    """Writes a checkpoint; the same weights give the same bytes.

    about: plain values: categories, encoders, epoch, and whatever a reader may want to know.
    """
    buffer = io.BytesIO()  # a file's bytes would depend on its name
    content = {
        "format": FORMAT,
        "localizer": name,
        "sizes": localizer.sizes._asdict(),
        "settings": localizer.settings,
        "about": about,
        "weights": {key: tensor.cpu() for key, tensor in localizer.state_dict().items()},
    }
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())


def read(path: Path, name: str | None = None, **settings: Any) -> Checkpoint:
    """A localizer, and what its file contains about it.

    name: the method, if another one is to be refused.
    settings: of an authors' checkpoint; ours contains its own.
    Raises: UserError if the file is damaged, contains code, or is of another method.
    """
    content = _plain_content(path)
    try:
        if content.get("format") in (FORMAT, FIRST_FORMAT):
            return _ours(path, _as_now(content), name)
        localizer = from_authors(str(path), content, name or AUTHORS_DEFAULT, **settings)
        return Checkpoint(name or AUTHORS_DEFAULT, localizer, {})
    except (AttributeError, KeyError, StopIteration, TypeError, ValueError) as error:
        raise UserError(f"{path}: a damaged checkpoint, or not one of ours: {error!r}") from error


def _plain_content(path: Path) -> dict[str, Any]:
    expect_file(path, made_by="train")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that it cannot read
        raise UserError(
            f"{path}: expected a checkpoint of plain tensors, undamaged and without code (pickled "
            f"modules are refused, since loading them would run code); {error}"
        ) from error
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: expected a checkpoint, got {type(content).__name__}")
    return content


def _ours(path: Path, content: dict[str, Any], name: str | None) -> Checkpoint:
    if name not in (None, content["localizer"]):
        raise UserError(
            f"{path}: expected a checkpoint of {name}, got one of {content['localizer']}; set "
            f"localizer.name, or run `dvc repro train`"
        )
    sizes = Sizes(**content["sizes"])
    localizer = build(content["localizer"], sizes, where=str(path), **content["settings"])
    _fill(str(path), localizer, content["weights"])
    return Checkpoint(content["localizer"], localizer.eval(), content["about"])


def _as_now(content: dict[str, Any]) -> dict[str, Any]:
    """The content of a file in the first format as it would be written now."""
    if content["format"] == FORMAT:
        return content
    settings = dict(content["settings"])
    sizes = {
        name: settings.pop(name) for name in ("visual_channels", "audio_channels", "categories")
    }
    height, width = content["about"].get("grid", (7, 7))
    heads = ("enhance.", "relevance_head.", "class_head.")
    weights = {
        key if key.startswith(heads) else f"network.{key}": tensor
        for key, tensor in content["weights"].items()
    }
    return {
        "localizer": "cace_net",
        "sizes": {**sizes, "positions": height * width},
        "settings": {"bece_enabled": settings.pop("bece"), **settings},
        "about": content["about"],
        "weights": {"contrast_on": torch.tensor(content["contrast_on"]), **weights},
    }


def from_authors(
    where: str, content: dict[str, Any], name: str = AUTHORS_DEFAULT, **settings: Any
) -> Localizer:
    """A localizer, in eval mode, from the state dict of a checkpoint of its authors.

    where: names the weights in messages.
    """
    weights = {
        key.removeprefix("module."): value
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    known = _authors_format(where, weights, name, settings)
    localizer = build(name, known.sizes, where=where, **settings)
    localizer.start_epoch(1.0)  # as at the end of training
    own = localizer.state_dict()
    keys = authors_keys(localizer, known)
    strange = {
        key: value
        for key, value in weights.items()
        if key not in keys.values() and not key.startswith(known.unused or ("\0",))
    }
    found = {ours: weights[theirs] for ours, theirs in keys.items() if theirs in weights}
    buffers = {key: own[key] for key in own if key not in keys}
    _fill(where, localizer, {**found, **buffers, **strange})
    return localizer.eval()


def _authors_format(
    where: str, weights: dict[str, Tensor], name: str, settings: dict[str, Any]
) -> AuthorsFormat:
    method = _method(name, where)
    try:
        known = method.authors_format(weights, settings)
    except KeyError as error:
        raise UserError(
            f"{where}: neither our checkpoint nor one of the authors of {method.title}: expected "
            f"the key {error}, got keys such as {sorted(weights)[:5]}"
        ) from None
    if known is None:
        raise UserError(f"{where}: checkpoints of the authors of {method.title} cannot be loaded")
    return known


def authors_keys(localizer: Localizer, known: AuthorsFormat) -> dict[str, str]:
    """For each of our weights its key in the authors' checkpoints; without our own buffers."""
    return {
        key: theirs + key.removeprefix(ours)
        for key in localizer.state_dict()
        for ours, theirs in known.modules.items()
        if key.startswith(f"{ours}.")
    }


def _fill(where: str, localizer: Localizer, weights: dict[str, Tensor]) -> None:
    precision = next(t.dtype for t in weights.values() if t.is_floating_point())
    localizer.to(precision)
    expected = localizer.state_dict()
    missing = sorted(set(expected) - set(weights))
    strange = sorted(set(weights) - set(expected))
    wrong = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if missing or strange or wrong:
        raise UserError(
            f"{where}: not a checkpoint of {localizer.title} with the settings "
            f"{localizer.settings}; missing: {missing}; unknown: {strange}; other shape: {wrong}"
        )
    localizer.load_state_dict(weights)
