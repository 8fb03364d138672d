"""Opens HDF5 files; an error says what is wrong with the file."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

import h5py

from cace.system.errors import DISK, UserError, shown
from cace.system.locks import holder

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
UNLOCKED = "set HDF5_USE_FILE_LOCKING=FALSE"


class DamagedError(UserError):
    """The file is not an HDF5 file, or not a complete one."""


@contextlib.contextmanager
def opened(path: Path, remedy: str) -> Iterator[h5py.File]:
    """An HDF5 file to read in this block; a failure in the block is reported as a damaged file.

    remedy: how to get an undamaged file, for the message.
    Raises: UserError if another process locks the file, or it cannot be opened; DamagedError if
        it is no HDF5 file, or a part of it is missing or wrong.
    """
    with open_hdf5(path, remedy) as file, expect_undamaged(file, remedy):
        yield file


@contextlib.contextmanager
def expect_undamaged(file: h5py.File, remedy: str) -> Iterator[None]:
    """Reports a failure in this block, which only reads the file, as a damaged file."""
    try:
        yield
    except UserError:
        raise
    except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise DamagedError(f"{file.filename}: damaged ({_first_line(error)}); {remedy}") from error


def open_hdf5(path: Path, remedy: str, mode: str = "r") -> h5py.File:
    """An HDF5 file that stays open. Other arguments and errors as of `opened`.

    mode: r, to read; r+, to change the file; w, to write a new one.
    Raises: also OSError that names the file, if it cannot be written to.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for
        got = "a folder" if path.is_dir() else "something else"
        raise UserError(f"{path}: expected an HDF5 file, got {got}")
    try:
        return h5py.File(path, mode)
    except FileNotFoundError:
        raise UserError(f"{path}: not there; {remedy}") from None
    except OSError as error:
        text = str(error)
        if "unable to lock file" in text and error.errno in NO_LOCKS:
            raise UserError(
                f"{path}: this file system has no locks ({os.strerror(error.errno)}); {UNLOCKED} "
                f"and run the same command again"
            ) from None
        if "unable to lock file" in text:
            read_now = f". If nothing writes to the file, {UNLOCKED} to read it now"
            raise UserError(
                f"{path}: in use by {holder(path)}; run the same command again when that has ended"
                f"{read_now if mode == 'r' else ''}"
            ) from None
        if mode != "r" and error.errno in DISK:
            error.filename = str(path)
            raise
        if error.errno:
            why = os.strerror(error.errno)
            raise UserError(f"{path}: cannot be read ({why}, error {error.errno})") from None
        if sizes := re.search(r"truncated file: eof = (\d+),.*stored_eof = (\d+)", text):
            raise DamagedError(
                f"{path}: cut short, {sizes[1]} of {sizes[2]} bytes; {remedy}"
            ) from None
        if "signature not found" in text:
            raise DamagedError(f"{path}: not an HDF5 file; {remedy}") from None
        raise DamagedError(f"{path}: damaged ({_first_line(error)}); {remedy}") from None


def dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """A dataset whose data is in this file.

    HDF5 also knows names and data that are in other files. A file from elsewhere could make us
    read any file of this machine with them.
    Raises: UserError if there is none of this name, or its data is not here.
    """
    link = file.get(name, getlink=True, default=None)
    if link is None:
        found = shown(", ".join(file))[1:-1] or "nothing"
        raise UserError(f"{file.filename}: expected a data set {name}, got {found}")
    if not isinstance(link, h5py.HardLink):
        raise UserError(f"{file.filename}, {name}: expected data in the file itself, got a link")
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise UserError(f"{file.filename}, {name}: expected a data set, got a group")
    if found.external or found.is_virtual:
        raise UserError(
            f"{file.filename}, {name}: expected data in the file itself, got data of other files"
        )
    return found


def _first_line(error: Exception) -> str:
    return shown(str(error).partition("\n")[0] or type(error).__name__)[1:-1]
