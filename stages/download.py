"""DVC stage: put the clips of the chosen source into data/media, in the AVE layout.

Of source released, the published feature, label, order and annotation files.
"""

from pathlib import Path

import pandas as pd

from cace.annotations import known_categories, read_annotations
from cace.errors import UserError, run
from cace.params import Params, load_params
from cace.sources import folder, mini, released
from cace.workspace import (
    progress,
    publish,
    scratch,
    sha256,
    workers,
    workspace_root,
    write_atomically,
)

AVE_DRIVE_ID = "1FjKwe79e0u96vdjIVwfRQ1V6SoDHe7kK"


def main() -> None:
    """Makes or takes the clips, and lists them with their hashes in manifest.csv."""
    params = load_params()
    if params.download is not None:
        with scratch("download", params.download.model_dump()) as work:
            mini.render(work / "media", **params.download.model_dump(), workers=workers())
            finish(work / "media", params)
    elif params.data.source == "released":
        given = params.data.path is not None
        found = released.find_files(users_folder(params)) if given else {}
        files = released.complete(found)
        with scratch("download", state(files)) as work:
            released.take(files, work / "media")
            publish_with(manifest(work / "media", [{"file": n} for n in files]), work / "media")
    else:
        path = users_folder(params)
        clips = folder.find_clips(
            path, read_annotations(path, known_categories(params.data.source))
        )
        with scratch("download", str(path), state(clips)) as work:
            folder.take(path, clips, work / "media")
            finish(work / "media", params)


def state(files: dict[str, Path]) -> dict[str, tuple[str, int, int]]:
    """Where each file is, its size and its time: what tells it from another one."""
    return {key: (str(f), f.stat().st_size, f.stat().st_mtime_ns) for key, f in files.items()}


def users_folder(params: Params) -> Path:
    """data.path, relative to the project's top folder."""
    source, path = params.data.source, params.data.path
    if path is None:
        get = (
            f" Get the data set (Google Drive, id {AVE_DRIVE_ID}) and unpack it first."
            if source == "ave"
            else ""
        )
        raise UserError(
            f"params.yaml, data.path: source {source} expects a folder with Annotations.txt, "
            f"trainSet.txt, valSet.txt, testSet.txt and AVE/<id>.mp4, got nothing.{get} Then "
            f"`dvc exp run -S data.source={source} -S data.path=/path/to/it`"
        )
    if not (found := workspace_root() / path.expanduser()).is_dir():
        raise UserError(f"params.yaml, data.path: expected a folder, got {str(found)!r}")
    return found


def finish(media: Path, params: Params) -> None:
    """Checks the annotations, lists the clips, and puts the folder in its place."""
    annotations = read_annotations(media, known_categories(params.data.source))
    clips = folder.find_clips(media, annotations)
    listed = manifest(media, [{"id": i, "file": f"AVE/{f.name}"} for i, f in clips.items()])
    if params.data.source == "folder":
        folder.expect_as_indexed(listed)
    publish_with(listed, media)


def manifest(media: Path, entries: list[dict[str, str]]) -> pd.DataFrame:
    """The entries with the size and hash of their `file`."""
    return pd.DataFrame(
        {**entry, "bytes": file.stat().st_size, "sha256": sha256(file)}
        for entry in progress(entries, "download: hashes")
        for file in [media / entry["file"]]
    )


def publish_with(listed: pd.DataFrame, media: Path) -> None:
    """Writes the manifest into the folder, and puts the folder in its place."""
    write_atomically(media / "manifest.csv", listed.to_csv(index=False))
    publish(media, Path("data/media"))


if __name__ == "__main__":
    run(main)
