"""Failures that the user can fix."""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

# The disk is full, over quota, read-only or not ours.
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)


class UserError(Exception):
    """A failure that the user can fix.

    The text names the thing, what was expected, what came, and what to do next.
    """


def listed(problems: list[str], most: int = 50) -> str:
    """One problem a line, indented; of very many the first ones and how many more there are."""
    more = [f"and {len(problems) - most} more"] if len(problems) > most else []
    return "".join(f"\n  {line}" for line in (*problems[:most], *more))


def run(main: Callable[[], None]) -> None:
    """Runs a stage: a failure that the user can fix prints its message alone, with status 1."""
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if error.errno not in DISK:
            raise
        where = error.filename or f"in {Path.cwd()}"
        print(
            f"error: {where}: {os.strerror(error.errno)}. Free space, or make it writable, and "
            f"run the same command again: it resumes",
            file=sys.stderr,
            flush=True,
        )
        # Without the usual exit: HDF5 would try to write the rest of its files, and crash.
        os._exit(1)
