"""All benchmarks, one after the other; then a table of benchmarks/results.json.

Each is a module that can be run alone, as `python -m benchmarks.decode`. `python -m benchmarks
training startup` runs only those; the results of the others stay. If it is stopped, the figures
that are known stay.
"""

import subprocess
import sys

import pandas as pd

from benchmarks.measuring import parser, read_results

IN_ORDER = (
    *("training", "methods", "folder", "decode", "encoders", "extract", "startup", "costs"),
)


def main() -> None:
    """Runs the named benchmarks, or all."""
    options = parser(__doc__)
    options.add_argument("names", nargs="*", metavar="NAME", help=", ".join(IN_ORDER))
    asked = options.parse_args()
    rounds = ["--rounds", str(asked.rounds)] if asked.rounds else []
    try:
        for name in asked.names or IN_ORDER:
            subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *rounds], check=True)
    finally:
        print(table().to_markdown(index=False, floatfmt=".3g"))


def table() -> pd.DataFrame:
    """One row per figure."""
    rows = [
        {"benchmark": name, **figure}
        for name, result in read_results().items()
        for figure in result["figures"]
    ]
    return pd.DataFrame(rows, dtype=object).fillna("")


if __name__ == "__main__":
    main()
