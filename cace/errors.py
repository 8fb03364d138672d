"""Failures that the user can mend."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """Something the user can mend; the text says what, what was expected, what came, what next."""


def run(main: Callable[[], None]) -> None:
    """Runs a stage: a failure that the user can mend prints its message alone, with status 1."""
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
