"""The command `cace check`."""

import argparse
from pathlib import Path

from cace import paths
from cace.cli import arguments
from cace.conventions import DEADLINE_SECONDS, MIN_SECONDS
from cace.settings import Source, load_params
from cace.system.errors import UserError, listed, shown
from cace.system.files import expect_writable, write_atomically
from cace.system.workers import workers


def add(commands: arguments.Commands, _: Path) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "check",
        help="show what is in a folder of clips, and what is wrong with it",
        description="Reads the annotations of a folder in the AVE layout and decodes all its "
        "clips, as the pipeline would; with --source released, reads the released features. "
        "Prints all problems and what to do about them; the exit status is 1 if there is one.",
        formatter_class=arguments.ShowDefaults,
    )
    parser.add_argument(
        "folder", type=arguments.path, metavar="FOLDER", help="the folder of data.path"
    )
    parser.add_argument(
        "--csv", type=arguments.path, metavar="FILE", help="table to write, one row per clip"
    )
    parser.add_argument(
        "--source",
        choices=("folder", "ave", "released"),
        help="check the folder as this data.source would (default: that of the project; folder "
        "if that is mini, or outside of a project)",
    )
    parser.add_argument(
        "--min-seconds",
        type=arguments.seconds,
        metavar="S",
        help="a clip with less picture or sound is refused (default: decode.min_seconds of the "
        f"project; outside of one {MIN_SECONDS:g})",
    )
    parser.add_argument(
        "--deadline-seconds",
        type=arguments.seconds,
        metavar="S",
        help="a clip that takes longer to decode is refused (default: decode.deadline_seconds of "
        f"the project; outside of one {DEADLINE_SECONDS:g})",
    )
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Prints a table of the folder, and all problems and remarks.

    Raises: UserError if there is a problem.
    """
    import pandas as pd

    from cace.data.sources.folder import INDEX_COLUMNS, read_index
    from cace.system.tables import markdown
    from cace.tools.check import Limits, check_folder

    if options.csv:
        _expect_file_to_write(options.csv)
    top = paths.project_top()
    source: Source = options.source or "folder"
    if not options.source and top is not None and (own := load_params(top).data.source) != "mini":
        source = own
    if source == "released":
        from cace.tools.check_released import check_released

        checked = check_released(arguments.existing_folder(options.folder))
    else:
        params = load_params(top, source) if top is not None else None
        decode = params.decode if params else None
        limits = Limits(**decode.model_dump(include=set(Limits._fields))) if decode else Limits()
        given = {key: getattr(options, key) for key in ("min_seconds", "deadline_seconds")}
        index = (top or Path()) / paths.INDEX
        checked = check_folder(
            arguments.existing_folder(options.folder),
            read_index(index) if index.exists() else pd.DataFrame(columns=INDEX_COLUMNS),
            source=source,
            limits=limits._replace(**{key: value for key, value in given.items() if value}),
            workers=workers(),
            weak=params.learns_from_tags if params else None,
        )
    print(markdown(checked.summary))
    if options.csv:
        write_atomically(options.csv, checked.clips.to_csv(index=False))
    if checked.remarks:
        print(f"\nremarks:{listed(checked.remarks, most=len(checked.remarks))}")
    if count := len(checked.problems):
        plural = "s" if count > 1 else ""
        raise UserError(
            f"{options.folder}: {count} problem{plural}:{listed(checked.problems, most=count)}\n"
            f"What to do before you run this again:{listed(checked.advice)}"
        )
    print(f"\n{options.folder}: no problems")


def _expect_file_to_write(path: Path) -> None:
    try:
        if path.is_dir():
            raise UserError(f"{path}: expected a file to write, got a folder")
        if path.is_file() or not path.exists():  # no pipe, and no device such as /dev/stdout
            expect_writable(path.parent)
    except OSError as error:  # of a name that is too long
        raise UserError(f"{shown(str(path))}: {error.strerror}") from None
