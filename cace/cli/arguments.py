"""What several commands share: the types of arguments, and options."""

import argparse
import contextlib
from pathlib import Path
from typing import Any, TypeAlias, get_args

from cace import paths
from cace.conventions import DEADLINE_SECONDS, THRESHOLD
from cace.settings import LOCALIZERS, Guidance, load_params
from cace.system.errors import UserError, shown

FORMATS = ("json", "csv", "vtt", "audacity", "html")

# What each command adds its parser to.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class ShowDefaults(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the default of each option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default else action.help


def add_threshold(parser: argparse.ArgumentParser) -> None:
    """Adds --threshold; without it, `cace.cli.main` sets that of the project."""
    parser.add_argument(
        "--threshold",
        type=share,
        metavar="θ",
        help="a segment with a relevance above it is an event (default: evaluate.threshold of the "
        f"project; outside of one {THRESHOLD})",
    )


def add_authors_settings(parser: argparse.ArgumentParser) -> None:
    """Adds the settings that a checkpoint of a method's authors does not contain."""
    group = parser.add_argument_group(
        "settings of an authors' checkpoint, which does not contain them"
    )
    group.add_argument(
        "--localizer",
        choices=LOCALIZERS,
        help="the method (default: cace_net); our checkpoints contain it",
    )
    group.add_argument(
        "--guidance", choices=get_args(Guidance), help="which modality guides (cace_net: both)"
    )
    group.add_argument("--beta", type=float, metavar="β", help="β of Eq. 2 (cace_net, cmbs: 0.4)")
    group.add_argument("--psi", type=float, metavar="ψ", help="ψ of Eq. 6 (cace_net: 0.3)")
    group.add_argument(
        "--lambda", type=float, metavar="λ", help="λ of Eq. 8 (cace_net: 0.6)", dest="bece_lambda"
    )


def authors_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The options that were given; the method has defaults for the others."""
    names = ("localizer", "guidance", "beta", "psi", "bece_lambda")
    given = {name: getattr(options, name) for name in names}
    return {name: value for name, value in given.items() if value is not None}


def path(text: str) -> Path:
    """A path, which may not be empty."""
    if not text:  # as of a variable of the shell that is not set; Path would take it for "."
        raise argparse.ArgumentTypeError("expected a path, got ''")
    return Path(text)


def share(text: str) -> float:
    """A number from 0 to 1."""
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")


def count(text: str) -> int:
    """A whole number from 1 to 999,999,999."""
    if not text.isdecimal() or len(text) > 9 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number >= 1, got {shown(text)}")
    return int(text)


def seconds(text: str) -> float:
    """A number above 0, and at most 1e6."""
    with contextlib.suppress(ValueError):
        if 0 < float(text) <= 1e6:
            return float(text)
    raise argparse.ArgumentTypeError(f"expected seconds > 0, got {shown(text)}")


def formats(text: str) -> list[str]:
    """Names of `FORMATS`, separated by commas; each once."""
    wanted = list(dict.fromkeys(name.strip().lower() for name in text.split(",")))
    if strange := sorted(set(wanted) - set(FORMATS)):
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(FORMATS)}, got {strange}")
    return wanted


def deadline_seconds() -> float:
    """For decoding a second of a video: `decode.deadline_seconds` of the project, if it has one."""
    top = paths.project_top()
    decode = load_params(top).decode if top is not None else None
    return decode.deadline_seconds if decode else DEADLINE_SECONDS


def expect_no_export(path: Path) -> None:
    """Raises: UserError if this is a file of `cace export`, where a checkpoint is expected."""
    from cace.inference.model_file import is_model_file

    if is_model_file(path):
        raise UserError(
            f"{path}: expected a checkpoint, got a file of `cace export`, which only "
            f"`cace localize` reads"
        )


def existing_folder(path: Path) -> Path:
    """The path of a folder.

    Raises: UserError if there is none.
    """
    with contextlib.suppress(OSError):  # of a name that is too long
        if path.is_dir():
            return path
    raise UserError(f"{shown(str(path))}: expected a folder")
