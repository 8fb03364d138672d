"""Locks between processes: waits for them, and names the process that has one."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from cace.system.errors import UserError

PATIENCE = 1.0  # seconds of waiting that need no message


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Locks a file during the block; prints a message if it has to wait for another process.

    what: names in the message what is waited for.
    Raises: UserError if the file system has no locks.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        print(f"waiting for {what}: {holder(path)} locks {path}", file=sys.stderr, flush=True)
        lock.acquire()
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
            raise
        raise UserError(
            f"{path}: this file system has no locks. Make .work a link to a folder on a local "
            f"disk, and run the same command again"
        ) from error
    try:
        yield
    finally:
        lock.release()


def holder(path: Path) -> str:
    """Who has a lock on a file: the process with its command, or how to find it."""
    with contextlib.suppress(OSError, ValueError):
        found = path.stat()
        place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
        for line in Path("/proc/locks").read_text(encoding="utf-8").splitlines():
            # 1: FLOCK  ADVISORY  WRITE 4711 08:01:2362857 0 EOF; one that waits has "->" first.
            fields = line.split()
            if fields[1] != "->" and fields[5] == place and fields[4].isdecimal():
                return f"process {fields[4]} ({_command(int(fields[4]))})"
    return f"another process (`lsof {path}` shows which)"


def _command(process: int) -> str:
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace").split("\0")
        return " ".join(words).strip()[:80] or "unknown"
    return "unknown"
