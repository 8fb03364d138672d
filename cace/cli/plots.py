"""The command `cace plots`."""

import argparse
from pathlib import Path

from cace.cli import arguments


def add(commands: arguments.Commands, _: Path) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "plots",
        help="make `dvc plots show` work without a network",
        description="Writes a page template that contains the plotting library, and names it in "
        ".dvc/config.local: the pages of `dvc plots show` and `dvc plots diff` then load nothing "
        "from the internet.",
    )
    parser.set_defaults(command=run)


def run(_: argparse.Namespace) -> None:
    """Writes the template, and prints its path."""
    from cace.tools.offline_plots import make_plots_offline

    print(f"{make_plots_offline()}: `dvc plots show` uses it from now on")
