"""Saves and loads a trained localizer, ours or one of a method's authors.

Our checkpoint is a PyTorch file of plain values: `format`, `localizer` (name of the method),
`sizes` and `settings` (of its constructor), `about` (categories, encoders, epoch, ...), `weights`.
`about` also has `source`, the data source of the training clips, and `trained_categories`, those of
the categories that had training clips. Older checkpoints and those of authors lack both: unknown.
Loading never runs code from a file.
"""

import inspect
import io
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cace.localizers import localizer_class
from cace.localizers.parts.about import SizesOfFile, check_about
from cace.localizers.parts.protocol import AuthorsFormat, Localizer, Sizes
from cace.settings import LOCALIZERS, check_method, check_some
from cace.system.errors import UserError, shown
from cace.system.files import expect_file, write_atomically
from cace.system.torch_files import Weights, misfit, read_torch_file, weights_in

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
    Raises: UserError if there is no such method or setting, or a value is out of its range.
    """
    method = _method(name, where)
    known = [key for key in inspect.signature(method).parameters if key != "sizes"]
    if strange := [key for key in settings if key not in known]:
        raise UserError(
            f"{where}: {method.title} has no setting {', '.join(strange)}; expected some of "
            f"{', '.join(known)}"
        )
    check_method(name, settings, where)
    return method(sizes, **settings)


def _method(name: str, where: str) -> type[Localizer]:
    if name not in LOCALIZERS:
        raise UserError(
            f"{where}: expected a localizer of {', '.join(LOCALIZERS)}, got {shown(name)}"
        )
    return localizer_class(name)


def save(path: Path, name: str, localizer: Localizer, about: dict[str, Any]) -> None:
    """Writes a checkpoint; the same weights give the same bytes.

    about: plain values: categories, encoders, epoch, and whatever a reader may want to know.
    Raises: UserError if one is a value that `read` would refuse.
    """
    check_about(about, localizer.sizes, str(path))
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


def read(path: Path | zipfile.Path, name: str | None = None, **settings: Any) -> Checkpoint:
    """A localizer, and what its file contains about it.

    path: of a file, or of one in an archive.
    name: the method, if another one is to be refused.
    settings: of an authors' checkpoint; ours contains its own.
    Raises: UserError if the file is damaged, contains code, or is of another method.
    """
    if isinstance(path, Path):
        expect_file(path, made_by="train")
    content = read_torch_file(path)
    written_as = _format_of(content)
    if written_as in (FORMAT, FIRST_FORMAT):
        try:
            return _ours(str(path), _as_now(content), name)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: a damaged checkpoint: {shown(error)}") from error
    if isinstance(written_as, str):
        raise UserError(
            f"{path}: expected a localizer ({FORMAT}), got {shown(written_as)}; name a model that "
            f"`dvc repro train` wrote, or use the version of cace that wrote this one"
        )
    weights = weights_in(content, str(path))
    try:
        localizer = from_authors(str(path), weights, name or AUTHORS_DEFAULT, **settings)
    except UserError as error:
        hint = "" if name else "; if its authors are those of another method, name it (--localizer)"
        raise UserError(f"{error}{hint}") from error
    return Checkpoint(name or AUTHORS_DEFAULT, localizer, {})


def is_ours(path: Path) -> bool:
    """Whether a PyTorch file is a checkpoint that `save` wrote, and not one of a method's authors.

    Raises: UserError if it is damaged, or contains code.
    """
    return isinstance(_format_of(read_torch_file(path)), str)


def _format_of(content: Any) -> Any:
    return content.get("format") if isinstance(content, dict) else None


def _ours(where: str, content: dict[str, Any], name: str | None) -> Checkpoint:
    if not isinstance(content["about"], dict) or not isinstance(content["settings"], dict):
        raise TypeError("expected settings by name")
    found, settings, about = content["localizer"], content["settings"], content["about"]
    _method(found, where)
    if name not in (None, found):
        raise UserError(
            f"{where}: expected a checkpoint of {name}, got one of {found}; set localizer.name, or "
            f"run `dvc repro train`"
        )
    check_some(SizesOfFile, content["sizes"], f"{where}, sizes")
    sizes = Sizes(**content["sizes"])
    check_about(about, sizes, where)
    outline = _outline(where, found, sizes, settings)
    _expect_fit(where, outline, outline.state_dict(), content["weights"])
    localizer = build(found, sizes, where=where, **settings)
    return Checkpoint(found, _filled(localizer, content["weights"]), about)


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
    where: str, weights: Weights, name: str = AUTHORS_DEFAULT, **settings: Any
) -> Localizer:
    """A localizer, in eval mode, from the state dict of a checkpoint of its authors.

    where: names the weights in messages.
    Raises: UserError if the weights are of another network.
    """
    known = _authors_format(where, weights, name, settings)
    check_some(SizesOfFile, known.sizes._asdict(), f"{where}, sizes")
    outline = _outline(where, name, known.sizes, settings)
    keys = authors_keys(outline, known)
    strange = {
        key: value
        for key, value in weights.items()
        if key not in keys.values() and not key.startswith(known.unused or ("\0",))
    }
    found = {ours: weights[theirs] for ours, theirs in keys.items() if theirs in weights}
    theirs = {key: tensor for key, tensor in outline.state_dict().items() if key in keys}
    _expect_fit(where, outline, theirs, {**found, **strange})
    localizer = build(name, known.sizes, where=where, **settings)
    localizer.start_epoch(1.0)  # as at the end of training
    return _filled(localizer, {**localizer.state_dict(), **found})


def _authors_format(
    where: str, weights: Weights, name: str, settings: dict[str, Any]
) -> AuthorsFormat:
    method = _method(name, where)
    try:
        known = method.authors_format(weights, settings)
    except KeyError as error:
        raise UserError(
            f"{where}: neither our checkpoint nor one of the authors of {method.title}: expected "
            f"the key {error}, got keys such as {shown(sorted(weights)[:5])}"
        ) from None
    except IndexError:
        raise UserError(
            f"{where}: not a checkpoint of the authors of {method.title}, or a damaged one: some "
            f"weights have too few axes"
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


def _outline(where: str, name: str, sizes: Sizes, settings: dict[str, Any]) -> Localizer:
    """The localizer without memory for its weights: a file may ask for any amount of it."""
    with torch.device("meta"):
        return build(name, sizes, where=where, **settings)


def _expect_fit(where: str, outline: Localizer, expected: Weights, weights: Any) -> None:
    if why := misfit(expected, weights):
        raise UserError(
            f"{where}: not a checkpoint of {outline.title} with the settings {outline.settings}, "
            f"or a damaged one; {why}"
        )


def _filled(localizer: Localizer, weights: Weights) -> Localizer:
    """In eval mode, in the precision of the weights, but at least in float32."""
    given = next(t.dtype for k, t in weights.items() if t.is_floating_point())
    localizer.to(torch.promote_types(given, torch.float32)).load_state_dict(weights)
    return localizer.eval()
