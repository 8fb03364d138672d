"""The command `cace index`."""

import argparse
from pathlib import Path

from cace import paths
from cace.cli import arguments
from cace.system.errors import UserError, listed
from cace.system.files import write_atomically


def add(commands: arguments.Commands, _: Path) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "index",
        help="record a folder's clips, so that the pipeline notices when they change",
        description=f"Writes {paths.INDEX}: size and hash of every annotated clip, and of the "
        "annotation files, of a folder in the AVE layout. The pipeline depends on this file: after "
        "a change in the folder, index it again, and `dvc repro` reads the folder again.",
    )
    parser.add_argument(
        "folder", type=arguments.path, metavar="FOLDER", help="the folder of data.path"
    )
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Writes the index, and prints what changed."""
    from cace.data.annotations import read_annotations
    from cace.data.sources.folder import differences, find_clips, index_of, label_files, read_index

    if (top := paths.project_top()) is None:
        raise UserError(
            f"{paths.INDEX} belongs to a project: run this in a folder with params.yaml and "
            f"dvc.yaml, or below it, got {Path.cwd()}"
        )
    path, folder = top / paths.INDEX, arguments.existing_folder(options.folder)
    annotations = read_annotations(folder)
    before = read_index(path) if path.exists() else None  # not after the hours of hashing
    clips = find_clips(folder, annotations)
    index = index_of({**clips, **label_files(folder)})
    changed = differences(before, index) if before is not None else []
    write_atomically(path, index.to_csv(index=False))
    print(
        f"{path}: {len(clips)} clips and {len(index) - len(clips)} annotation files, "
        f"{len(changed)} of them new, gone or changed"
    )
    if missing := [id_ for id_ in annotations.ids if id_ not in clips]:
        print(f"annotated, but without a file:{listed(missing)}")
    print(f"run `git add {path}` to keep it")
