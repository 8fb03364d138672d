"""The command line: `cace <command>`.

A command is a module of this package, listed in COMMANDS. Its `add(commands, top)` adds its parser,
where `top` is the project's folder, and its `run(options)` does the work. `run` imports what it
needs: importing torch and pandas with the module would delay `--help` by seconds.
"""

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from cace import __version__, paths
from cace.cli import (
    check,
    clean,
    compare,
    doctor,
    evaluate,
    export,
    index,
    inspect,
    localize,
    match,
    plots,
)
from cace.conventions import THRESHOLD
from cace.settings import load_params
from cace.system.errors import printable, run

# In the order of `--help`.
COMMANDS = (localize, match, export, compare, inspect, check, doctor, clean, index, plots, evaluate)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        takes_names = self.prog.endswith(("inspect", "localize", "match"))
        message = printable(message)
        if takes_names and not message.startswith("argument --"):  # else an option's value is wrong
            hint = f"put a name that starts with '-' after '--': {self.prog} -- -4f2kD8aQxw"
            message = f"{message}\n{self.prog}: {hint}"
        super().error(message)


def main(arguments: list[str] | None = None) -> None:
    """Runs one command; a failure that the user can fix prints its message, with status 1."""
    try:
        run(lambda: _run(_parser().parse_args(arguments)))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:  # the program that read the output has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


def _run(options: argparse.Namespace) -> None:
    if "threshold" in options and options.threshold is None:
        top = paths.project_top()
        options.threshold = THRESHOLD if top is None else load_params(top).evaluate.threshold
    options.command(options)


def _parser() -> argparse.ArgumentParser:
    top = paths.project_top() or Path()
    parser = _Parser(
        prog="cace",
        description="Audio-visual event localization. The pipeline itself runs with `dvc repro`.",
    )
    parser.add_argument("--version", action="version", version=f"cace {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands, top)
    return parser
