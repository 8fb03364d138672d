"""The command line: `cace <command>`."""

import argparse
from pathlib import Path
from typing import NoReturn

from cace import __version__
from cace.errors import run


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        hint = "an id that starts with '-' goes after '--': cace inspect -- -4f2kD8aQxw"
        super().error(f"{message}\n{self.prog}: {hint}" if "inspect" in self.prog else message)


def main(arguments: list[str] | None = None) -> None:
    """Runs one command; a failure that the user can mend prints its message, with status 1."""
    options = _parser().parse_args(arguments)
    run(lambda: options.command(options))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="cace",
        description="Audio-visual event localization. The pipeline itself runs with `dvc repro`.",
    )
    parser.add_argument("--version", action="version", version=f"cace {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    inspect = commands.add_parser(
        "inspect",
        help="see what the pipeline sees of a clip",
        description="Writes a contact sheet (one frame a segment, with its label and, for test "
        "clips, its prediction), the spectrogram, and the sound as WAV.",
    )
    inspect.add_argument("id", nargs="+", metavar="CLIP_ID", help="as in data/clips/clips.csv")
    inspect.add_argument(
        "--out", type=Path, default=Path("inspect"), metavar="DIR", help="default: inspect/"
    )
    inspect.set_defaults(command=_inspect)
    return parser


def _inspect(options: argparse.Namespace) -> None:
    from cace.clips import ClipStore
    from cace.inspection import inspect_clip

    clips = ClipStore(Path("data/clips"))
    for id_ in options.id:
        predictions = Path("data/predictions/test.csv")
        for file in inspect_clip(id_, clips, predictions, options.out / id_):
            print(file)
