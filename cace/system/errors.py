"""Failures that the user can fix."""

import errno
import io
import os
import reprlib
import sys
from collections.abc import Callable
from pathlib import Path

# The disk is full, over quota or read-only, or the user has no permission.
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)


class UserError(Exception):
    """Something the user can fix; the text gives the problem, what was expected, and what to do."""


def listed(problems: list[str], most: int = 50) -> str:
    """One problem per line, indented; if there are many, the first ones and how many more."""
    more = [f"and {len(problems) - most} more"] if len(problems) > most else []
    return "".join(f"\n  {line}" for line in (*problems[:most], *more))


def shown(value: object, most: int = 200) -> str:
    """A value in a message: quoted as in Python, and shortened if it is long."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = most
    short.maxlist = short.maxtuple = short.maxdict = 10
    try:
        return short.repr(value)
    except ValueError:  # Python prints no number of thousands of digits
        return "a number of thousands of digits"


def run(main: Callable[[], None]) -> None:
    """Runs a stage; for a failure that the user can fix, prints only its message, with status 1."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names that this terminal cannot show
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if error.errno not in DISK:
            raise
        where = error.filename or f"in {Path.cwd()}"
        print(
            f"error: {where}: {os.strerror(error.errno)}. Free space, or make it writable, and run "
            f"the same command again: it resumes",
            file=sys.stderr,
            flush=True,
        )
        # Not sys.exit: HDF5 would then try to write the rest of its files, and crash.
        os._exit(1)
