"""Failures that the user can mend."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """Something the user can mend; the text says what, what was expected, what came, what next."""


def listed(problems: list[str], most: int = 50) -> str:
    """One problem a line, indented; of very many the first ones and how many more there are."""
    more = [f"and {len(problems) - most} more"] if len(problems) > most else []
    return "".join(f"\n  {line}" for line in (*problems[:most], *more))


def run(main: Callable[[], None]) -> None:
    """Runs a stage: a failure that the user can mend prints its message alone, with status 1."""
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
