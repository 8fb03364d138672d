"""Numbers and verdicts of a comparison in words."""

from cace.comparison.results import Pair
from cace.comparison.statistics import Difference

MINUS = "−"


def verdict(a: str, b: str, difference: Difference, what: str = "") -> str:
    """A sentence such as `B is 1.2 points better than A, 0.3 to 2.1`.

    a, b: names of the runs. what: the measure, if it is not clear.
    """
    of = f" in {what}" if what else ""
    found = difference.verdict
    if found == "equal":
        return f"{b} and {a} are equal{of} on every clip: the difference is 0, p = 1"
    size = points(abs(difference.difference))
    direction = "worse" if difference.difference < 0 else "better"
    start = (
        f"{b} and {a} have the same mean{of}"
        if size == points(0)
        else f"{b} is {size} points {direction} than {a}{of}"
    )
    if difference.low is None or difference.high is None:
        return f"{start}: one clip tells nothing about others"
    ends = sorted((difference.low, difference.high))
    if difference.difference < 0:  # what the sentence says is positive
        ends = [-end for end in reversed(ends)]
    start += f", {points(ends[0])} to {points(ends[1])}"
    if found in ("better", "worse"):
        return start
    if difference.needed is None:
        short = "seeds" if difference.difference and difference.a.deviation is not None else "clips"
        return f"{start}: cannot tell; more {short} would be needed"
    if difference.needed <= difference.clips:
        return f"{start}: too few clips differ to tell"
    return f"{start}: not enough clips to tell; some {_rounded(difference.needed)} would be needed"


def headline(a: str, pair: Pair) -> str:
    """The verdict on accuracy, as a sentence."""
    return verdict(a, pair.name, pair.measures["accuracy"]) + "."


def points(share: float, sign: bool = False) -> str:
    """A difference in percentage points, with one digit: `−0.4`; sign: `+1.2` too."""
    text = f"{100 * share:+.1f}" if sign else f"{100 * share:.1f}"
    return text.replace("-", "" if text in ("-0.0",) else MINUS).replace("+0.0", "0.0")


def percent(mean: float, deviation: float | None = None) -> str:
    """Mean and, over several seeds, deviation: `91.2 ± 0.3`."""
    # The mean of equal figures may differ from them in the last digit, and so be rounded otherwise.
    shown = f"{round(100 * mean, 6):.1f}"
    return shown + ("" if deviation is None else f" ± {100 * deviation:.1f}")


def interval(difference: Difference) -> str:
    """`−0.4 to 2.8` in points."""
    if difference.low is None or difference.high is None:
        return "none"
    return f"{points(difference.low)} to {points(difference.high)}"


def p_value(p: float) -> str:
    """Two significant digits, from 0.001."""
    if p < 0.001:
        return "< 0.001"
    return "1" if p > 0.995 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def _rounded(count: int) -> str:
    """Two significant digits, not less: 1,900 for 1,812."""
    unit = 10 ** max(0, len(str(count)) - 2)
    return f"{-(-count // unit) * unit:,}"
