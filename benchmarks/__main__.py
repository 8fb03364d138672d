"""All benchmarks, one after the other: a table, and benchmarks/results.json.

Each is a module `python -m benchmarks.<name>` that prints a JSON object on its last line, and may
print a table before it.
`python -m benchmarks training startup` runs only those; the results of the others stay.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results.json"
IN_ORDER = ("training", "decode", "extract", "startup", "costs")


def main() -> None:
    """Runs the named benchmarks, or all."""
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for name in sys.argv[1:] or IN_ORDER:
        print(f"{name} ...", file=sys.stderr, flush=True)
        results[name] = run(name)
        RESULTS.write_text(
            json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    print(table(results).to_markdown(index=False, floatfmt=".3g"))


def run(name: str) -> dict[str, Any]:
    """What the benchmark prints, run in a separate process."""
    command = [sys.executable, "-m", f"benchmarks.{name}"]
    done = subprocess.run(
        command, cwd=FOLDER.parent, stdout=subprocess.PIPE, encoding="utf-8", check=True
    )
    *shown, last = done.stdout.splitlines()
    print(*shown, sep="\n")
    found: dict[str, Any] = json.loads(last)
    return found


def table(results: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """One row per figure."""
    rows = [
        {"benchmark": name, **figure}
        for name, result in results.items()
        for figure in result["figures"]
    ]
    return pd.DataFrame(rows, dtype=object).fillna("")


if __name__ == "__main__":
    main()
