"""The command `cace match`."""

import argparse
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from cace import paths
from cace.cli import arguments
from cace.system.errors import UserError, listed, printable, shown

if TYPE_CHECKING:
    from cace.inference.match import Match
    from cace.matching.protocol import Modality

ENDINGS = (".match.html", ".match.json")


def add(commands: arguments.Commands, top: Path) -> None:
    """Adds the command; `top` is the project's folder."""
    parser = commands.add_parser(
        "match",
        help="find the picture that belongs to a sound of a video, or the sound of a picture",
        description="Given some seconds of a video's sound, prints where the picture fits them "
        "best (or the other way round), by a model of `dvc repro matching/dvc.yaml`. It compares "
        "windows of one video; it does not say whether any of them belongs to the given one.",
        formatter_class=arguments.ShowDefaults,
    )
    parser.add_argument("video", type=arguments.path, metavar="VIDEO", help="video file")
    given = parser.add_mutually_exclusive_group(required=True)
    for name, other in (("sound", "picture"), ("picture", "sound")):
        given.add_argument(
            f"--{name}",
            type=window,
            metavar="START-END",
            help=f"whole seconds of the {name}, such as 3-7, whose {other} is searched",
        )
    parser.add_argument(
        "--model",
        type=arguments.path,
        default=top / paths.MATCHERS / "distance",
        metavar="PATH",
        help="a cell of matching/dvc.yaml, whose seeds are averaged, or one checkpoint",
    )
    parser.add_argument(
        "--encoder",
        type=arguments.path,
        metavar="FILE",
        help="the fine-tuned visual encoder (default: that of the project)",
    )
    parser.add_argument(
        "--out",
        type=arguments.path,
        metavar="DIR",
        help="folder for a page with the video and the fit over time, and a JSON file",
    )
    parser.add_argument(
        "--embed", action="store_true", help="put the video into the page, instead of a link to it"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    parser.set_defaults(command=run)


def window(text: str) -> tuple[int, int]:
    """Start and end, in whole seconds."""
    found = re.fullmatch(r"(\d{1,6})-(\d{1,6})", text, re.ASCII)
    if not found or int(found[1]) >= int(found[2]):
        raise argparse.ArgumentTypeError(
            f"expected START-END in whole seconds, START < END, such as 3-7, got {shown(text)}"
        )
    return int(found[1]), int(found[2])


def run(options: argparse.Namespace) -> None:
    """Prints the window that fits best, and writes its files with --out."""
    if options.embed and not options.out:
        raise UserError("--embed needs --out DIR, the folder to write to")
    files = _files(options) if options.out else []
    from cace.inference.match import LIMITS, load_matcher

    arguments.expect_no_export(options.model)
    matcher = load_matcher(options.model, options.encoder)
    print(printable(matcher.model))
    if matcher.training.warning:
        print(f"  {matcher.training.warning}")
    given: Modality = "audio" if options.sound else "visual"
    start, end = options.sound or options.picture
    match = matcher.match(
        options.video,
        given,
        start,
        end,
        show_progress=True,
        deadline_seconds=arguments.deadline_seconds(),
    )
    print(f"\n{printable(str(match.file))} ({match.seconds:.1f} s)")
    for remark in match.remarks:
        print(f"  {printable(remark)}")
    print(f"  {match.sentence}")
    print(f"  {LIMITS}")
    _write(match, files, options)


def _files(options: argparse.Namespace) -> list[Path]:
    """The files to write.

    Raises: UserError if the folder cannot be written to, one of them exists already, or the video
        is too large to embed.
    """
    from cace.inference.exports import MOST_EMBEDDED, cut_name, is_no_file, most_name_bytes
    from cace.system.files import expect_writable

    size = options.video.stat().st_size if options.video.is_file() else 0
    if options.embed and size > MOST_EMBEDDED:
        raise UserError(
            f"{options.video}: too large for a page, at most {MOST_EMBEDDED / 1e6:g} MB; without "
            f"--embed the page links to it"
        )
    expect_writable(options.out)
    name = cut_name(options.video.stem, most_name_bytes(options.out, ENDINGS))
    files = [options.out / f"{name}{ending}" for ending in ENDINGS]
    present = [file for file in files if os.path.lexists(file)]
    if there := [str(file) for file in present if is_no_file(file) or not options.overwrite]:
        raise UserError(
            f"these files exist already; choose another folder, or replace them (all but folders) "
            f"with --overwrite:{listed(there)}"
        )
    return files


def _write(match: "Match", files: list[Path], options: argparse.Namespace) -> None:
    from cace.inference.match_page import match_json, match_page
    from cace.system.files import write_atomically

    for file in files:
        link = os.path.relpath(match.file.absolute(), file.parent.absolute())
        page = file.name.endswith(".html")
        content = match_page(match, embed=options.embed, link=link) if page else match_json(match)
        write_atomically(file, content)
        print(f"  {printable(str(file))}")
