"""DVC stage: put the clips of the chosen source into data/media, in the AVE layout.

Of source released, the published feature, label, order and annotation files.
"""

from pathlib import Path

import pandas as pd

from cace.data.annotations import known_categories, read_annotations
from cace.data.downloads import WEIGHTS, fetch
from cace.data.sources import ave, folder, mini, released
from cace.settings import Params, load_params
from cace.system.errors import UserError, run
from cace.system.files import publish, sha256, workspace_root, write_atomically
from cace.system.scratch import scratch
from cace.system.workers import progress, workers


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
    elif params.data.source == "ave" and params.data.path is None:
        archive = fetch_ave(params)
        with scratch("download", "ave", state({"archive": archive})) as work:
            ave.unpack(archive, work / "media")
            ave.check(work / "media")
            finish(work / "media", params)
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


def fetch_ave(params: Params) -> Path:
    """The data set's archive, and the encoders' weights beside it: here, not after hours of work.

    The weights change nothing that this stage writes, so that dvc.yaml need not track their names.
    """
    given, encoders = params.data.archive, params.encoders
    files = [] if given else [ave.ARCHIVE]
    if encoders is not None:
        names = (encoders.visual, encoders.visual_weights), (encoders.audio, encoders.audio_weights)
        files += [WEIGHTS[name] for name in names if name in WEIGHTS]
    paths = fetch(files)
    archive = workspace_root() / given.expanduser() if given else paths[0]
    if not archive.is_file():
        raise UserError(f"params.yaml, data.archive: expected a zip file, got {str(archive)!r}")
    return archive


def users_folder(params: Params) -> Path:
    """data.path, relative to the project's top folder."""
    source, path = params.data.source, params.data.path
    if path is None:
        raise UserError(
            f"params.yaml, data.path: source {source} expects a folder with Annotations.txt and "
            f"AVE/<id>.mp4 in it, got nothing; "
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
        rows = folder.index_of(folder.label_files(media))
        folder.expect_as_indexed(pd.concat([listed, rows], ignore_index=True))
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
