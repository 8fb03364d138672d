"""How the files of each source get into one folder, in the AVE layout, with a manifest.

Each function collects one source: it checks what it found, and moves the folder to `out` only when
everything is in it. An interrupted run resumes. Source ave is a folder too, if the user has
unpacked it already.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cace.data.annotations import known_categories, read_annotations
from cace.data.manifest import list_files, publish_media
from cace.data.sources import ave, folder, mini, released
from cace.system.downloads import WEIGHTS, fetch
from cace.system.errors import UserError, shown
from cace.system.files import users_path
from cace.system.scratch import scratch


def collect_mini(out: Path, workers: int, **settings: Any) -> None:
    """Renders the clips of source mini.

    settings: the other keywords of `mini.render`.
    """
    with scratch("download", settings) as work:
        mini.render(work / "media", **settings, workers=workers)
        publish_media(work / "media", _list_clips(work / "media", "mini"), out)


def collect_released(out: Path, path: Path | None) -> None:
    """Copies the released feature, label, order and annotation files.

    path: the user's folder, data.path; what it lacks is downloaded.
    """
    found = released.find_files(users_folder("released", path)) if path is not None else {}
    files = released.complete(found)
    with scratch("download", file_states(files)) as work:
        released.copy_files(files, work / "media")
        listed = list_files(work / "media", [{"file": name} for name in files])
        publish_media(work / "media", listed, out)


def collect_archive(out: Path, archive: Path | None, encoders: Sequence[tuple[str, str]]) -> None:
    """Unpacks and checks the archive of AVE.

    archive: the user's zip file, data.archive; None: it is downloaded.
    encoders: name and weights of each; downloadable weights are fetched with the archive, so that
        a failure shows here and not after hours of work. They change nothing that is written.
    """
    files = [] if archive else [ave.ARCHIVE]
    paths = fetch([*files, *(WEIGHTS[name] for name in encoders if name in WEIGHTS)])
    found = users_path(archive, "params.yaml, data.archive") if archive else paths[0]
    if not found.is_file():
        raise UserError(f"params.yaml, data.archive: expected a zip file, got {str(found)!r}")
    with scratch("download", "ave", file_states({"archive": found})) as work:
        ave.unpack(found, work / "media")
        ave.check(work / "media")
        publish_media(work / "media", _list_clips(work / "media", "ave"), out)


def collect_folder(out: Path, source: str, path: Path | None) -> None:
    """Copies the user's clips; of source folder they are compared with the index.

    path: data.path.
    """
    given = users_folder(source, path)
    clips = folder.find_clips(given, read_annotations(given, known_categories(source)))
    inputs = file_states({**clips, **folder.label_files(given)})
    with scratch("download", str(given), inputs) as work:
        media = work / "media"
        folder.copy_clips(given, clips, media)
        listed = _list_clips(media, source)
        if source == "folder":
            rows = folder.index_of(folder.label_files(media))
            folder.expect_as_indexed(pd.concat([listed, rows], ignore_index=True))
        publish_media(media, listed, out)


def users_folder(source: str, path: Path | None) -> Path:
    """data.path, relative to the project's top folder.

    Raises: UserError if it is empty, or is not a folder.
    """
    if path is None:
        raise UserError(
            f"params.yaml, data.path: source {source} expects a folder with Annotations.txt and "
            f"AVE/<id>.mp4 in it, got nothing; "
            f"`dvc exp run -S data.source={source} -S data.path=/path/to/it`"
        )
    if not (found := users_path(path, "params.yaml, data.path")).is_dir():
        raise UserError(
            f"params.yaml, data.path: expected a folder, got {shown(str(found))}; put a name that "
            f"YAML reads as something else into quotes, as in data.path=\"'1e3'\""
        )
    return found


def file_states(files: dict[str, Path]) -> dict[str, tuple[str, int, int, int]]:
    """Path, size and times of each file: read faster than a hash, and change with the content.

    The second time is that of the last change of the file's entry: no program can set it back.
    """
    stats = {key: (file, file.stat()) for key, file in files.items()}
    return {
        key: (str(file), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        for key, (file, stat) in stats.items()
    }


def _list_clips(media: Path, source: str) -> pd.DataFrame:
    """Checks the annotations, and lists the annotated clips that have a file."""
    annotations = read_annotations(media, known_categories(source))
    clips = folder.find_clips(media, annotations)
    entries = [{"id": id_, "file": f"AVE/{file.name}"} for id_, file in clips.items()]
    return list_files(media, entries)
