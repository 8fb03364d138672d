"""The command `cace clean`."""

import argparse
from pathlib import Path

from cace.cli import arguments


def add(commands: arguments.Commands, _: Path) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "clean",
        help="remove what interrupted runs left in .work",
        description="Removes the work of stages from .work, for all branches and settings, unless "
        "a run uses it. A stage that was interrupted then starts from its beginning. Downloads, "
        "and all that DVC has recorded, remain.",
    )
    parser.set_defaults(command=run)


def run(_: argparse.Namespace) -> None:
    """Removes the work that no run uses, and prints what it removed."""
    from cace.system.scratch import all_work, remove, work_root

    if not (found := all_work()):
        print(f"{work_root()}: nothing to remove")
    for work in found:
        size = f"{work.bytes / 1e9:.1f} GB"
        print(f"{work.name} ({size}): {'removed' if remove(work.folder) else 'in use, stays'}")
