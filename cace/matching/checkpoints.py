"""Saves and loads a trained matcher.

The file is a PyTorch file of plain values: `format`, `matcher` (its name), `channels`, `about`
(source, seed, encoders and frames of its training) and `weights`. Loading never runs code from it.
"""

import io
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cace.localizers.parts.about import About
from cace.matching.dam import Dam
from cace.matching.distance import Distance
from cace.matching.protocol import Channels, Matcher
from cace.settings import Count, Section, check_section, check_some
from cace.system.errors import UserError, shown
from cace.system.files import expect_file, write_atomically
from cace.system.torch_files import misfit, read_torch_file

FORMAT = "cace-matcher-1"
MADE_BY = "matching/dvc.yaml"
MATCHERS: dict[str, type[Matcher]] = {"distance": Distance, "dam": Dam}


class Checkpoint(NamedTuple):
    """A trained matcher in eval mode, and what is known about it."""

    name: str
    matcher: Matcher
    about: dict[str, Any]


class _Channels(Section):
    visual: Count
    audio: Count


def save(path: Path, name: str, matcher: Matcher, about: dict[str, Any]) -> None:
    """Writes a checkpoint; the same weights give the same bytes.

    about: plain values.
    """
    buffer = io.BytesIO()  # saved to a path, the bytes would depend on the file's name
    content = {
        "format": FORMAT,
        "matcher": name,
        "channels": matcher.channels._asdict(),
        "about": about,
        "weights": {key: tensor.cpu() for key, tensor in matcher.state_dict().items()},
    }
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())


def read(path: Path) -> Checkpoint:
    """A matcher, and what its file contains about it.

    Raises: UserError if the file is damaged, or is no checkpoint of a matcher.
    """
    content = read_torch_file(expect_file(path, made_by=MADE_BY))
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else content
        raise UserError(
            f"{path}: expected a matcher ({FORMAT}), got {shown(found)}; run `dvc repro {MADE_BY}`"
        )
    name, about, channels = (content.get(key) for key in ("matcher", "about", "channels"))
    if name not in MATCHERS or not isinstance(about, dict) or not isinstance(channels, dict):
        raise UserError(f"{path}: a damaged checkpoint; run `dvc repro {MADE_BY}` again")
    check_some(About, about, f"{path}, about")
    sizes = check_section(_Channels, channels, f"{path}, channels")
    with torch.device("meta"):  # a damaged file may name sizes that fill the memory
        outline = MATCHERS[name](Channels(**sizes.model_dump()))
    if why := misfit(outline.state_dict(), content.get("weights")):
        raise UserError(
            f"{path}: not a checkpoint of {outline.title}, or a damaged one; {why}; run "
            f"`dvc repro {MADE_BY}` again"
        )
    matcher = MATCHERS[name](outline.channels)
    matcher.load_state_dict(content["weights"])
    return Checkpoint(name, matcher.eval(), about)
