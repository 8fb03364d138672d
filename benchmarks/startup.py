"""How long `cace --help` takes, compared with Python itself."""

import subprocess
import sys

from benchmarks.measuring import children_seconds, figure, report

RUNS = 5
HELP = "from cace.cli import main; main(['--help'])"


def seconds(*command: str) -> float:
    """CPU seconds of the fastest of some runs."""
    return min(
        children_seconds(
            lambda: subprocess.run([sys.executable, *command], capture_output=True, check=True)
        )
        for _ in range(RUNS)
    )


def main() -> None:
    """CPU seconds, not wall seconds: they are nearly the same on a busy machine."""
    ours, bare = seconds("-c", HELP), seconds("-c", "pass")
    report([figure("`cace --help`, beside `python -c pass`", "CPU s", ours, bare, "at most 0.5 s")])


if __name__ == "__main__":
    main()
