"""The command `cace doctor`."""

import argparse
from pathlib import Path

from cace.cli import arguments
from cace.system.errors import UserError


def add(commands: arguments.Commands, _: Path) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "doctor",
        help="show what is installed, found and missing, and how to fix it",
        description="Checks this machine and the project in the current folder. Changes nothing. "
        "The exit status is 1 if there is something to fix.",
    )
    parser.set_defaults(command=run)


def run(_: argparse.Namespace) -> None:
    """Prints what was found, and what to do about it.

    Raises: UserError if there is something to fix.
    """
    from cace.tools.doctor import examine

    findings = examine()
    for finding in findings:
        print(f"{'!' if finding.fix else ' '} {finding.what:<28} {finding.found}")
        if finding.fix:
            print(f"    {finding.fix}")
    if wrong := sum(bool(finding.fix) for finding in findings):
        raise UserError(f"{wrong} of {len(findings)} to fix, marked with !")
