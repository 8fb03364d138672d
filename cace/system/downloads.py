"""Files from the network: used if they are on disk already, else downloaded; their hash is checked.

All are in one folder, CACE_DATA or `.work/downloads`, which survives a killed stage and a change of
the source. A file is called `<name>.part` until it is complete and its hash is right.
"""

import itertools
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urljoin

import requests
from tqdm import tqdm
from urllib3.exceptions import HTTPError

from cace.system.errors import UserError, listed, shown
from cace.system.files import sha256, users_path
from cace.system.locks import locked

PAUSES = (1.0, 4.0, 16.0)  # seconds before each retry; from the first again once data has arrived
DRIVE = "https://drive.google.com/uc?export=download&id="
TIMEOUT = (10.0, 60.0)  # seconds to connect, and between two parts of an answer
LONGEST_WAIT = 600  # seconds
BLOCK = 1 << 16  # bytes
REDIRECTS = 10  # followed for one answer
ROOM = 1 << 28  # bytes that a download leaves free on the disk


class RemoteFile(NamedTuple):
    """A file on the network."""

    name: str
    url: str
    size: str  # for people to read
    sha256: str = ""  # of the complete file, or its first digits; empty if it is not known
    most: float = 30e9  # bytes; a longer answer is refused

    def __str__(self) -> str:
        rest = "" if len(self.sha256) == 64 else "..."
        known = f"sha256 {self.sha256}{rest}" if self.sha256 else "sha256 unknown"
        return f"{self.name} ({self.size}, {known}): {self.url}"


# By the name of the encoder and the name of its weights.
WEIGHTS = {
    ("resnet50", "imagenet"): RemoteFile(
        "resnet50-11ad3fa6.pth",
        "https://download.pytorch.org/models/resnet50-11ad3fa6.pth",
        "97.8 MB",
        "11ad3fa6",
        110e6,
    ),
    ("vgg19", "imagenet"): RemoteFile(
        "vgg19-dcbb9e9d.pth",
        "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",
        "548 MB",
        "dcbb9e9d",
        600e6,
    ),
    ("cnn14", "audioset"): RemoteFile(
        "Cnn14_mAP=0.431.pth",
        "https://zenodo.org/records/3987831/files/Cnn14_mAP%3D0.431.pth",
        "327 MB",
        "0dc499e40e9761ef5ea061ffc77697697f277f6a960894903df3ada000e34b31",
        350e6,
    ),
    ("vggish", "youtube8m"): RemoteFile(
        "vggish-10086976.pth",
        "https://github.com/harritaylor/torchvggish/releases/download/v0.1/vggish-10086976.pth",
        "about 289 MB",
        "10086976",
        320e6,
    ),
}


class RefusedError(Exception):
    """Why a file could not be downloaded; another try would not help."""


def downloads_folder() -> Path:
    """CACE_DATA, else `.work/downloads` in the user's checkout."""
    return users_path(os.environ.get("CACE_DATA") or ".work/downloads", "CACE_DATA")


def fetch(files: Sequence[RemoteFile], pauses: Sequence[float] = PAUSES) -> list[Path]:
    """Paths of the files; downloads those that are missing, and checks all hashes.

    Raises: UserError at the first failure; it lists all files that are still missing.
    """
    folder = downloads_folder()
    paths = []
    for place, file in enumerate(files):
        try:
            paths.append(_fetch_one(file, folder, pauses))
        except (RefusedError, OSError) as error:  # of the disk, or from requests of the network
            missing = [str(f) for f in files[place:] if not (folder / f.name).exists()]
            get = (
                f" Get what is missing by hand:{listed(missing)}\n"
                f"and put it into {folder} (CACE_DATA sets another folder)"
            )
            raise UserError(f"{file.name}: {error}.{get if missing else ''}") from error
    return paths


def _fetch_one(file: RemoteFile, folder: Path, pauses: Sequence[float]) -> Path:
    target = folder / file.name
    if not target.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / f".{file.name}.lock", f"the download of {file.name} by another run"):
            if not target.is_file():
                part = folder / f"{file.name}.part"
                print(f"download: {file}", flush=True)
                _download(file, part, pauses)
                if found := _wrong_hash(file, part):
                    part.unlink()
                    raise RefusedError(
                        f"expected sha256 {file.sha256}, got {found} from {file.url}"
                    )
                part.replace(target)
                return target
    if found := _wrong_hash(file, target):
        raise RefusedError(
            f"expected sha256 {file.sha256}, got {found} in {target}; remove that file to "
            f"download it again from {file.url}"
        )
    return target


def _wrong_hash(file: RemoteFile, path: Path) -> str | None:
    """The hash of the file if it is not the expected one, else None."""
    if not file.sha256 or (found := sha256(path)).startswith(file.sha256):
        return None
    return found


class _Session(requests.Session):
    """Follows no redirect: requests would first read such an answer to its end, if it has one."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


def _download(file: RemoteFile, part: Path, pauses: Sequence[float]) -> None:
    """Continues `part` until it is complete; retries after lost connections, 429 and 5xx."""
    left = iter(pauses)
    with _Session() as session:
        session.headers["Accept-Encoding"] = "identity"  # ranges count the bytes of the file
        while True:
            before = _size(part)
            try:
                return _receive(session, file.url, part, file.most)
            except (ValueError, OverflowError) as error:  # for instance a port of ten digits
                raise RefusedError(f"an address that cannot be used: {error}") from error
            except (requests.RequestException, HTTPError) as error:
                if _size(part) > before:
                    left = iter(pauses)
                if (pause := next(left, None)) is None:
                    raise RefusedError(str(error)) from error
                pause = max(pause, _asked_to_wait(getattr(error, "response", None)))
                print(f"{file.name}: {error}; next try in {pause:g} s", flush=True)
                time.sleep(pause)


def _asked_to_wait(answer: requests.Response | None) -> float:
    """Seconds that a busy server asks for; a date or an absurd number counts as none."""
    asked = answer.headers.get("Retry-After", "") if answer is not None else ""
    seconds = _whole_number(asked)
    return float(seconds) if seconds is not None and seconds <= LONGEST_WAIT else 0.0


def _whole_number(text: str) -> int | None:
    """A number of seconds or bytes in a header; None if it is something else."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else None


def _receive(
    session: requests.Session,
    url: str,
    part: Path,
    most: float,
    confirmed: bool = False,
    hops: int = REDIRECTS,
) -> None:
    """One attempt: continues at the end of `part`, or restarts if the server sends no ranges.

    most: bytes of the complete file; a longer answer is refused.
    """
    have = _size(part)
    headers = {"Range": f"bytes={have}-"} if have else {}
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if target := requests.Session().get_redirect_target(answer):
            if not hops:
                raise RefusedError(f"more than {REDIRECTS} redirects, the last one from {url}")
            there = urljoin(url, target)
            return _receive(session, there, part, most, confirmed, hops - 1)
        given = answer.headers.get("Content-Range", "")
        if answer.status_code == 416 and given == f"bytes */{have}":
            return  # the part was complete already
        if answer.status_code == 416 or (
            answer.status_code == 206 and not given.startswith(f"bytes {have}-")
        ):
            part.unlink(missing_ok=True)
            raise requests.RequestException(f"expected bytes from {have} on, got {given!r}")
        if answer.status_code == 429 or answer.status_code >= 500:
            answer.raise_for_status()
        if (coding := answer.headers.get("Content-Encoding", "identity")).lower() != "identity":
            # Neither its length nor its byte positions are those of the file.
            raise RefusedError(
                f"HTTP {answer.status_code}: expected the file as it is, got it compressed with "
                f"{shown(coding)} from {url}"
            )
        start = have if answer.status_code == 206 else 0
        length = _whole_number(answer.headers.get("Content-Length", ""))
        total = start + length if length is not None else None
        room = have + shutil.disk_usage(part.parent).free - ROOM
        _expect_at_most(most, room, total or 0, part)
        blocks = answer.iter_content(BLOCK)
        first = next(blocks, b"")
        if _is_page(answer, first):
            page = b"".join((first, *itertools.islice(blocks, 15))).decode(errors="replace")
            if confirmed or (link := _link_in(page)) is None:
                raise RefusedError(f"{_describe(page)} (HTTP {answer.status_code}) from {url}")
            return _receive(session, link, part, most, confirmed=True)
        if not answer.ok:
            raise RefusedError(f"HTTP {answer.status_code} {answer.reason} from {url}")
        with part.open("ab" if start else "wb") as file:
            received = start
            blocks = itertools.chain((first,), blocks)
            for block in _with_progress(blocks, part.stem, start, total):
                received += len(block)
                _expect_at_most(most, room, received, part)
                file.write(block)


def _expect_at_most(most: float, room: int, size: int, part: Path) -> None:
    """Raises: RefusedError if a download of this size is too long, or the disk has no room."""
    if size > most:
        part.unlink(missing_ok=True)  # it is another file
        raise RefusedError(f"expected at most {most / 1e6:g} MB, got {size / 1e6:.1f} MB or more")
    if size > room:
        raise RefusedError(
            f"expected {size / 1e6:.1f} MB or more of free space in {part.parent}, got "
            f"{max(0, room) / 1e6:.1f} MB; free some space, and the same command resumes"
        )


def _is_page(answer: requests.Response, first: bytes) -> bool:
    looks_like_one = first[:200].lstrip().lower().startswith((b"<!doctype html", b"<html"))
    return looks_like_one or answer.headers.get("Content-Type", "").startswith("text/html")


def _link_in(page: str) -> str | None:
    """The link in the virus-scan page that Google Drive shows before every large file."""
    from gdown.download import get_url_from_gdrive_confirmation
    from gdown.exceptions import FileURLRetrievalError

    try:
        return get_url_from_gdrive_confirmation(page)
    except (FileURLRetrievalError, KeyError, ValueError, AssertionError, RecursionError):
        return None  # it is not that page


def _describe(page: str) -> str:
    text = page.lower()
    if "quota" in text or "too many users" in text:
        return (
            "Google Drive reports that its download quota for this file is used up; try again "
            "after 24 hours, or get it in a browser where you are signed in"
        )
    if "virus" in text:
        return "got Google Drive's virus-scan page, again after it was confirmed"
    title = re.search(r"<title[^>]*>(.*?)</title>", page, re.DOTALL | re.IGNORECASE)
    named = f", titled {' '.join(title[1].split())!r}" if title else ""
    return f"expected the file, got a web page{named}"


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _with_progress(
    blocks: Iterable[bytes], name: str, start: int, total: int | None
) -> Iterator[bytes]:
    """Shows how much has arrived and how fast: a bar on a terminal, a line per tenth in a log.

    total: bytes of the complete file, or None if the server does not report it.
    """
    began, got, shown = time.monotonic(), start, 10 * start // (total or 1)
    bar = tqdm(
        desc=name,
        total=total,
        initial=start,
        unit="B",
        unit_scale=True,
        disable=None,
        dynamic_ncols=True,
    )
    with bar:
        for block in blocks:
            yield block
            bar.update(len(block))
            got += len(block)
            if bar.disable and total and 10 * got // total > shown:
                shown = 10 * got // total
                rate = (got - start) / max(time.monotonic() - began, 1e-3)
                done, size, speed = (tqdm.format_sizeof(n, "B") for n in (got, total, rate))
                print(f"{name}: {done} of {size}, {speed}/s", flush=True)
