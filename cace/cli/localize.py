"""The command `cace localize`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cace import paths
from cace.cli import arguments
from cace.system.errors import DISK, UserError, listed, printable

if TYPE_CHECKING:
    from cace.inference.timeline import TimedEvent, Timeline


def add(commands: arguments.Commands, top: Path) -> None:
    """Adds the command; `top` is the project's folder."""
    parser = commands.add_parser(
        "localize",
        help="find the events of videos: when, and of which category",
        description="Prints when something of a known category is both visible and audible in "
        "each video, of any length. First prints what the model was trained on; a model knows "
        "only the categories that had training clips. With --out it also writes files for "
        "players, tables and editors, and a page with the video, its timeline and where the model "
        "looked; if it is stopped, the same command continues.",
        formatter_class=arguments.ShowDefaults,
    )
    parser.add_argument(
        "video",
        nargs="+",
        type=arguments.path,
        metavar="VIDEO",
        help="video file, or folder with videos",
    )
    parser.add_argument(
        "--model",
        type=arguments.path,
        default=top / paths.LOCALIZERS,
        metavar="PATH",
        help="a file of `cace export`; or what `train` wrote: a folder of seeds, which are "
        "averaged, or one checkpoint; or a checkpoint of a method's authors (.pth.tar)",
    )
    parser.add_argument(
        "--encoder",
        type=arguments.path,
        metavar="FILE",
        help="the fine-tuned visual encoder (default: visual_encoder.pt beside the model)",
    )
    parser.add_argument(
        "--out", type=arguments.path, metavar="DIR", help="folder to write files to"
    )
    parser.add_argument(
        "--format",
        type=arguments.formats,
        default=",".join(arguments.FORMATS),
        metavar="F,F,...",
        help="files to write: " + ", ".join(arguments.FORMATS),
    )
    parser.add_argument(
        "--embed", action="store_true", help="put the video into the page, instead of a link to it"
    )
    parser.add_argument(
        "--truth",
        type=arguments.path,
        metavar="FOLDER",
        help="folder with an Annotations.txt; the page shows its events for the file's name",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="process all videos again, and replace their files"
    )
    parser.add_argument(
        "--top",
        type=arguments.count,
        metavar="N",
        help="only the N events of the highest confidence",
    )
    arguments.add_threshold(parser)
    arguments.add_authors_settings(parser)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Prints the events of each video, and writes their files with --out.

    Raises: UserError if a video fails; the others are finished first.
    """
    from cace.inference.exports import Writer, videos
    from cace.inference.models import load

    left_out: list[str] = []
    files = videos(options.video, left_out)
    if left_out:
        print(f"left out:{listed(left_out)}\n")
    if not options.out and (
        options.embed or options.truth or options.format != list(arguments.FORMATS)
    ):
        raise UserError("--format, --embed and --truth need --out DIR, the folder to write to")
    localizer = load(options.model, encoder=options.encoder, **arguments.authors_settings(options))
    writer = options.out and Writer(
        options.out,
        options.format,
        files,
        made_with={
            "model": localizer.identity,
            "threshold": options.threshold,
            "top": options.top,
        },
        embed=options.embed,
        truth=options.truth,
        overwrite=options.overwrite,
    )
    print(printable(localizer.model))
    print(f"  {printable(localizer.training.described(len(localizer.categories)))}")
    if localizer.training.warning:
        print(f"  {localizer.training.warning}")
    print()
    deadline_seconds = arguments.deadline_seconds()
    failures = []
    for file in files:
        name = printable(str(file))
        if writer and file in writer.finished:
            print(f"{name}: skipped, finished by an earlier run with the same settings\n")
            continue
        try:
            timeline = localizer.localize(
                file, show_progress=True, deadline_seconds=deadline_seconds
            )
            events = timeline.events(options.threshold, options.top)
            written = writer.write(timeline, events, options.threshold) if writer else []
        except UserError as error:
            failures.append(str(error))
        except OSError as error:
            if error.errno in DISK:  # the other videos would fail too
                raise
            failures.append(f"{error.filename or file}: {error.strerror}")
        else:
            _print_events(timeline, events, options.threshold, written)
            continue
        print(f"{name}: failed, see below\n")
    if failures:
        raise UserError(f"{len(failures)} of {len(files)} videos failed:{listed(failures)}")


def _print_events(
    timeline: "Timeline", events: list["TimedEvent"], threshold: float, written: list[Path]
) -> None:
    from cace.inference.exports import shown

    print(f"{printable(str(timeline.file))} ({timeline.seconds:.1f} s)")
    for remark in timeline.remarks:
        print(f"  {printable(remark)}")
    none = (
        f"no event above the threshold of {threshold:g} in the {timeline.known.sum()} categories "
        f"that the model knows"
    )
    print(shown(events) if events else none)
    for path in written:
        print(f"  {printable(str(path))}")
    print()
