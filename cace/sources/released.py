"""Source released: the published VGG-19 and VGGish features of AVE with their labels and splits."""

import sys
from pathlib import Path
from typing import NamedTuple

import h5py

from cace.errors import UserError, listed
from cace.sources.folder import copy_file
from cace.workspace import progress

DRIVE = "https://drive.google.com/uc?id="
GITHUB = "https://raw.githubusercontent.com/YapengTian/AVE-ECCV18/master/data/"
TIMEOUT = (10.0, 60.0)  # seconds to connect, and between two parts of an answer


class PublishedFile(NamedTuple):
    """A file of the release, and where it is."""

    name: str
    size: str
    url: str
    required: bool = True  # the others only serve checks


FILES = (  # the largest last: what fails fails early
    PublishedFile("Annotations.txt", "0.14 MB", GITHUB + "Annotations.txt"),
    PublishedFile("train_order.h5", "0.03 MB", GITHUB + "train_order.h5"),
    PublishedFile("val_order.h5", "0.01 MB", GITHUB + "val_order.h5"),
    PublishedFile("test_order.h5", "0.01 MB", GITHUB + "test_order.h5"),
    PublishedFile("labels.h5", "over 4 MB", GITHUB + "labels.h5"),
    PublishedFile("mil_labels.h5", "0.48 MB", GITHUB + "mil_labels.h5", required=False),
    PublishedFile("labels_closs.h5", "0.17 MB", GITHUB + "labels_closs.h5", required=False),
    PublishedFile("audio_feature.h5", "42.4 MB", DRIVE + "1F6p4BAOY-i0fDXUOhG7xHuw_fnO5exBS"),
    PublishedFile("visual_feature.h5", "7.744 GiB", DRIVE + "1hQwbhutA3fQturduRnHMyfRqdrRHgmC9"),
)


def find_files(folder: Path) -> dict[str, Path]:
    """The published files that lie in `folder` or in `folder/data`, by name.

    Raises: UserError where none is there, or one is no HDF5 file.
    """
    found = {
        file.name: path
        for file in FILES
        for path in (folder / "data" / file.name, folder / file.name)
        if path.is_file()
    }
    if not found:
        names = ", ".join(file.name for file in FILES if file.required)
        raise UserError(
            f"{folder}: expected the published files ({names}), got none of them; leave data.path "
            f"empty to download them"
        )
    if damaged := [f"{path}: {why}" for path in found.values() if (why := _damage(path))]:
        raise UserError(f"{folder}: these files are damaged; get them again:{listed(damaged)}")
    return found


def gather(found: dict[str, Path], into: Path) -> None:
    """Puts the release together: fetches what was not found, then copies what was.

    The files that only serve checks are fetched where nothing was found at all. Unfinished files
    lie beside `into`, so that what a kill leaves of them is never part of it.
    Raises: UserError that lists each missing file with its link.
    """
    into.mkdir(parents=True, exist_ok=True)
    fetch([f for f in FILES if f.name not in found and (f.required or not found)], into)
    for name, path in progress(found.items(), "download: files taken"):
        copy_file(path, into.with_name(name))
        into.with_name(name).replace(into / name)


def fetch(files: list[PublishedFile], into: Path) -> None:
    """Downloads what is not in `into` yet.

    Raises: UserError at the first failure; it lists all that are missing then.
    """
    missing = [file for file in files if not (into / file.name).exists()]
    for place, file in enumerate(missing):
        print(f"download: {file.name} ({file.size}) from {file.url}", flush=True)
        if failure := download(file.url, into.with_name(file.name)):
            to_get = [
                f"{left.name} ({left.size}{'' if left.required else ', not required'}): {left.url}"
                for left in missing[place:]
            ]
            raise UserError(
                f"{file.name}: download failed ({failure}). Get what is missing by hand:"
                f"{listed(to_get)}\n"
                f"and put it into the folder of data.path; if none is set yet: "
                f"`dvc exp run -S data.source=released -S data.path=/path/to/it`"
            )
        into.with_name(file.name).replace(into / file.name)


def download(url: str, target: Path) -> str | None:
    """Downloads one file; the answer says what went wrong, None if nothing did."""
    import gdown  # Google Drive asks back before it gives a large file

    quiet = not sys.stderr.isatty()
    try:
        # Without cookies, which would be kept in the home folder.
        gdown.download(url, str(target), quiet=quiet, use_cookies=False, timeout=TIMEOUT)
    except (OSError, gdown.exceptions.DownloadError) as error:
        return " ".join(str(error).split())
    return _damage(target)


def _damage(path: Path) -> str | None:
    """Why a file is not what its name says: an error page, or cut off."""
    if path.suffix == ".h5":
        try:
            h5py.File(path).close()
        except OSError as error:
            return f"not a whole HDF5 file ({error})"
    return None
