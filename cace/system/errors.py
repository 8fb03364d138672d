"""Failures that the user can fix."""

import contextlib
import errno
import io
import os
import reprlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO, cast

# The disk is full, over quota or read-only, or the user has no permission.
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)

# Control characters, line ends, and the marks that change the direction of what follows.
_CONTROL = (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F))
_ESCAPES = {
    code: chr(code).encode("unicode_escape").decode()
    for code in (*_CONTROL, *range(0x2066, 0x206A))
}


class UserError(Exception):
    """Something the user can fix; the text gives the problem, what was expected, and what to do."""


def printable(text: str) -> str:
    """Text for one line of a terminal: what would control the terminal is escaped."""
    return text.translate(_ESCAPES)


def listed(problems: list[str], most: int = 50) -> str:
    """One problem per line, indented; if there are many, the first ones and how many more."""
    more = [f"and {len(problems) - most} more"] if len(problems) > most else []
    return "".join(f"\n  {_printable_list(line)}" for line in (*problems[:most], *more))


def _printable_list(text: str) -> str:
    """Keeps the line ends of a list within the text, but not those of names."""
    return "\n  ".join(map(printable, text.split("\n  ")))


def _printable_lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


class _Escaped:
    """A stream through which no name from a file can control the terminal."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        with _naming_the_output():
            self.stream.write(_printable_lines(text))
        return len(text)

    def flush(self) -> None:
        with _naming_the_output():
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def _naming_the_output() -> Iterator[None]:
    """Says of a disk that is full, or refuses to be written to, that the output goes there."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK:
            error.filename = "standard output"
        raise


def shown(value: object, most: int = 200) -> str:
    """A value in a message: quoted as in Python, and shortened if it is long."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = most
    short.maxlist = short.maxtuple = short.maxdict = 10
    try:
        return short.repr(value)
    except ValueError:  # Python prints no number of thousands of digits
        return "a number of thousands of digits"


def reason(error: Exception, most: int = 200) -> str:
    """The first line of what a library says of a failure, shortened if it is long."""
    text = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
    return text if len(text) <= most else f"{text[:most]}..."


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w", encoding="utf-8")


def run(main: Callable[[], None]) -> None:
    """Runs a stage; for a failure that the user can fix, prints only its message, with status 1.

    An OSError that names a file is one. Control characters that it prints are escaped.
    """
    # Python has none where the caller closed them, as `>&-` and some daemons do.
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names that this terminal cannot show
    failure = None
    try:
        with contextlib.redirect_stdout(cast(Any, _Escaped(sys.stdout))):
            try:
                main()
            except UserError as error:
                failure = _printable_lines(f"error: {error}")
            sys.stdout.flush()
    except OSError as error:
        if failure:
            print(failure, file=sys.stderr)
        if error.errno not in DISK:
            if error.filename is None:
                raise
            sys.exit(_printable_lines(f"error: {error.filename}: {error.strerror}"))
        where = printable(str(error.filename or f"in {Path.cwd()}"))
        print(
            f"error: {where}: {os.strerror(error.errno)}. Free space, or make it writable, and run "
            f"the same command again: it resumes",
            file=sys.stderr,
            flush=True,
        )
        # Not sys.exit: HDF5 would then try to write the rest of its files, and crash.
        os._exit(1)
    if failure:
        sys.exit(failure)
