"""Source released: the released VGG-19 and VGGish features of AVE with their labels and splits."""

from pathlib import Path

from cace.data.sources.folder import copy_file
from cace.data.sources.released_labels import OPTIONAL, WITHOUT_EVENT
from cace.system.downloads import DRIVE, RemoteFile, fetch
from cace.system.errors import UserError, listed
from cace.system.files import sha256
from cace.system.hdf5 import DamagedError, open_hdf5
from cace.system.workers import progress

GITHUB = "https://raw.githubusercontent.com/YapengTian/AVE-ECCV18/master/data/"
FILES = (  # the largest last, so that failures come early
    RemoteFile(
        "Annotations.txt",
        GITHUB + "Annotations.txt",
        "0.14 MB",
        "0d24a9ec5cd4ceb779ebd83d74e83ec8e55c5e468cede3f320fb57346c9dd321",
        1e6,
    ),
    RemoteFile(
        "train_order.h5",
        GITHUB + "train_order.h5",
        "0.03 MB",
        "a216fcdd02782ba9d10c9ea79116120eb3be467740e58290e1b340d42a590456",
        1e6,
    ),
    RemoteFile(
        "val_order.h5",
        GITHUB + "val_order.h5",
        "0.01 MB",
        "5692aec0efb30e4efa49a867a902c1993b4c88a7d3ec19879349e540e7a5d9ca",
        1e6,
    ),
    RemoteFile(
        "test_order.h5",
        GITHUB + "test_order.h5",
        "0.01 MB",
        "f9bb79defc1f784ca5dda9cdd3ee52af6d24ccb399a1cfab6bf0d373f5681076",
        1e6,
    ),
    RemoteFile("labels.h5", GITHUB + "labels.h5", "over 4 MB", most=50e6),
    RemoteFile(
        "mil_labels.h5",
        GITHUB + "mil_labels.h5",
        "0.48 MB",
        "63c1886c78289bcf7e748fa0fe5c18d568dac75a1f015ac41860a78f598c2bd5",
        2e6,
    ),
    RemoteFile(
        "labels_closs.h5",
        GITHUB + "labels_closs.h5",
        "0.17 MB",
        "97676082eb1fc9a7a29255032391871c74f00cd74a5eddc57d9aed14ec52acc9",
        1e6,
    ),
    RemoteFile(
        "train_order_match.h5",
        GITHUB + "train_order_match.h5",
        "0.03 MB",
        "82dc6e59d79179e62e7df8dcb0f648c5003d5dda13262ef10bcb74acc8016bb2",
        1e6,
    ),
    RemoteFile(
        "val_order_match.h5",
        GITHUB + "val_order_match.h5",
        "0.01 MB",
        "ad336b6302cbace06c0ff4434112abb1b0353cb12f246d81ea94b7cbbfbc648d",
        1e6,
    ),
    RemoteFile(
        "test_order_match.h5",
        GITHUB + "test_order_match.h5",
        "0.01 MB",
        "5c9258d60d0fd6e177c50dfaa5813cf8b91748787703a522d8082d90bf1f453c",
        1e6,
    ),
    RemoteFile(
        "audio_feature_noisy.h5", GITHUB + "audio_feature_noisy.h5", "about 2 MB", most=50e6
    ),
    RemoteFile(
        "audio_feature.h5", DRIVE + "1F6p4BAOY-i0fDXUOhG7xHuw_fnO5exBS", "42.4 MB", most=50e6
    ),
    RemoteFile(
        "visual_feature_noisy.h5",
        DRIVE + "1I3OtOHJ8G1-v5G2dHIGCfevHQPn-QyLh",
        "about 0.4 GB",
        most=1e9,
    ),
    RemoteFile(
        "visual_feature.h5", DRIVE + "1hQwbhutA3fQturduRnHMyfRqdrRHgmC9", "7.744 GiB", most=9e9
    ),
)


def find_files(folder: Path) -> dict[str, Path]:
    """The released files in `folder` or in `folder/data`, by name.

    Raises: UserError if there is none, or one is damaged or has the name of another.
    """
    found = {
        file.name: path
        for file in FILES
        for path in (folder / "data" / file.name, folder / file.name)
        if path.is_file()
    }
    if not found:
        names = ", ".join(file.name for file in FILES if file.name not in OPTIONAL)
        raise UserError(
            f"{folder}: expected the released files ({names}), got none of them; leave data.path "
            f"empty to download them"
        )
    if damaged := [why for path in found.values() if (why := _damage(path))]:
        raise UserError(f"{folder}: these files are damaged; download them again:{listed(damaged)}")
    if renamed := [why for path in found.values() if (why := _other_name(path))]:
        raise UserError(f"{folder}: give these files their own names:{listed(renamed)}")
    return found


def complete(found: dict[str, Path]) -> dict[str, Path]:
    """The files that were found, and the rest of the release from the downloads folder, by name.

    Optional files are downloaded only if nothing was found, the clips without an event never.
    Raises: UserError that lists each missing file with its link.
    """
    lacking = [file for file in FILES if file.name not in found]
    left = OPTIONAL if found else WITHOUT_EVENT
    wanted = [file for file in lacking if file.name not in left]
    fetched = {path.name: path for path in fetch(wanted)}
    if damaged := [why for path in fetched.values() if (why := _damage(path))]:
        raise UserError(f"damaged downloads; remove them and run this again:{listed(damaged)}")
    return {**found, **fetched}


def copy_files(files: dict[str, Path], into: Path) -> None:
    """Copies the files that are not there yet.

    Each is copied beside `into` first, so that `into` never contains a part of a file.
    """
    into.mkdir(parents=True, exist_ok=True)
    for name, path in progress(files.items(), "download: files copied"):
        if not (into / name).exists():
            copy_file(path, into.with_name(name))
            into.with_name(name).replace(into / name)


def _other_name(path: Path) -> str | None:
    """Which other file of the release this is, in words; None if it is not known to be one."""
    known = {file.sha256: file.name for file in FILES if file.sha256}
    if path.stat().st_size > max(file.most for file in FILES if file.sha256):
        return None
    name = known.get(sha256(path), path.name)
    return None if name == path.name else f"{path.name}: is the release's {name}"


def _damage(path: Path) -> str | None:
    """Why a file is damaged: it is an error page instead, or cut off. None if it is not damaged."""
    if path.suffix == ".h5":
        try:
            open_hdf5(path, "get it again").close()
        except DamagedError as error:
            return str(error)
    return None
