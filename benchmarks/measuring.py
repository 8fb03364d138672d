"""What the benchmarks of decode and extract measure with."""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cace.workspace import workers


def cpu_seconds(of: int = resource.RUSAGE_SELF) -> float:
    """User and system time so far; waiting and other processes do not count."""
    used = resource.getrusage(of)
    return used.ru_utime + used.ru_stime


def peak_megabytes() -> float:
    """The most memory that this process has held."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def in_turns(*jobs: Callable[[], dict[str, float]], rounds: int) -> list[dict[str, float]]:
    """Medians of what each job returns; the jobs take turns, so that a busy machine hits all."""
    results: list[list[dict[str, float]]] = [[] for _ in jobs]
    for _ in range(rounds):
        for job, found in zip(jobs, results, strict=True):
            found.append(job())
    return [
        {key: statistics.median(one[key] for one in found) for key in found[0]} for found in results
    ]


def alone(module: str, *arguments: Any) -> dict[str, float]:
    """Runs a part of a benchmark in a process of its own; its last line is JSON."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def timed(job: Callable[[], Any], clips: int) -> dict[str, float]:
    """CPU and wall seconds a clip."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    job()
    return {
        "cpu": (cpu_seconds() - cpu) / clips,
        "wall": (time.perf_counter() - wall) / clips,
    }


def render(folder: Path, clips: int, width: int, height: int, fps: int) -> None:
    """Clips of source mini, of any size, with their manifest."""
    from cace.sources import mini  # here: a process that only decodes is measured without it

    mini.render(folder, clips=clips, seed=0, width=width, height=height, fps=fps, workers=workers())
    files = [f"{path.stem},AVE/{path.name}\n" for path in (folder / "AVE").iterdir()]
    (folder / "manifest.csv").write_text("id,file\n" + "".join(files))


def figure(
    what: str, unit: str, ours: float, theirs: float | None = None, bar: str | None = None
) -> dict[str, Any]:
    """One row of the table; ratio: ours over theirs."""
    ratio = None if theirs is None else round(ours / theirs, 3)
    return {
        "what": what,
        "ours": round(ours, 4),
        "theirs": None if theirs is None else round(theirs, 4),
        "ratio": ratio,
        "unit": unit,
        "bar": bar,
    }


def report(figures: list[dict[str, Any]], **about: Any) -> None:
    """Prints the table as JSON on one line."""
    machine = {
        "machine": platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cores": workers(),
        "load": os.getloadavg()[0],
    }
    print(json.dumps({"figures": figures, "about": machine | about}))
