"""The command `cace inspect`."""

import argparse
from pathlib import Path

from cace import paths
from cace.cli import arguments
from cace.system.errors import printable


def add(commands: arguments.Commands, _: Path) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "inspect",
        help="show a clip as the pipeline reads it",
        description="Writes a contact sheet (one frame per segment, with its label and, for test "
        "clips, its prediction), the spectrogram, and the sound as WAV.",
    )
    parser.add_argument(
        "id", nargs="+", metavar="CLIP_ID", help=f"as in {paths.CLIPS / 'clips.csv'}"
    )
    parser.add_argument(
        "--out",
        type=arguments.path,
        default=Path("inspect"),
        metavar="DIR",
        help="default: inspect/",
    )
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Writes the files of each clip, and prints their paths and remarks."""
    from cace.data.annotations import load_annotations
    from cace.media.store import ClipStore
    from cace.tools.inspect import inspect_clip

    top = paths.project_top() or Path()
    folder, predictions = top / paths.CLIPS, top / paths.PREDICTIONS / "test.csv"
    clips, annotations = ClipStore(folder), load_annotations(folder / "annotations.json")
    for id_ in options.id:
        *files, remarks = inspect_clip(id_, clips, annotations, predictions, options.out / id_)
        for line in (*map(str, files), *(f"  {remark}" for remark in remarks)):
            print(printable(line))
