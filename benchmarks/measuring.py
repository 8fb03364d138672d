"""How the benchmarks measure and report."""

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

from cace.system.workers import workers


def cpu_seconds(of: int = resource.RUSAGE_SELF) -> float:
    """User and system time so far; waiting and other processes do not count."""
    used = resource.getrusage(of)
    return used.ru_utime + used.ru_stime


def peak_megabytes() -> float:
    """The most memory that this process has used."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would count what its parent used when it started this process
        (line,) = (
            line
            for line in status.read_text(encoding="utf-8").splitlines()
            if line.startswith("VmHWM")
        )
        return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def in_turns(*jobs: Callable[[], dict[str, float]], rounds: int) -> list[dict[str, float]]:
    """Medians of what each job returns; they run in turns, so that a busy machine slows all."""
    results: list[list[dict[str, float]]] = [[] for _ in jobs]
    for _ in range(rounds):
        for job, found in zip(jobs, results, strict=True):
            found.append(job())
    return [
        {key: statistics.median(one[key] for one in found) for key in found[0]} for found in results
    ]


def alone(module: str, *arguments: Any) -> dict[str, float]:
    """Runs a part of a benchmark in a separate process; its last line is JSON."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8", check=True)
    return json.loads(done.stdout.splitlines()[-1])


def timed(job: Callable[[], Any], clips: int) -> dict[str, float]:
    """CPU and wall seconds per clip."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    job()
    return {
        "cpu": (cpu_seconds() - cpu) / clips,
        "wall": (time.perf_counter() - wall) / clips,
    }


def render(folder: Path, clips: int, width: int, height: int, fps: int) -> None:
    """Clips of source mini, of any size, with their manifest."""
    from cace.data.sources import mini  # here: a process that only decodes is measured without it

    mini.render(folder, clips=clips, seed=0, width=width, height=height, fps=fps, workers=workers())
    files = [f"{path.stem},AVE/{path.name}\n" for path in (folder / "AVE").iterdir()]
    (folder / "manifest.csv").write_text("id,file\n" + "".join(files), encoding="utf-8")


def figure(
    what: str, unit: str, ours: float, theirs: float | None = None, bar: str | None = None
) -> dict[str, Any]:
    """One row of the table; ratio: ours over theirs; bar: the goal, in words."""
    ratio = None if theirs is None else ours / theirs
    return {"what": what, "ours": ours, "theirs": theirs, "ratio": ratio, "unit": unit, "bar": bar}


def children_seconds(work: Callable[[], Any]) -> float:
    """CPU seconds of the processes that some work starts and waits for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def about() -> dict[str, Any]:
    """Processor, its cores, its bfloat16, and versions."""
    import torch

    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return {
        "processor": named[0] if named else platform.processor(),
        "cores": os.cpu_count(),
        "bfloat16": [flag for flag in ("avx512_bf16", "amx_bf16") if flag in flags],
        "load": os.getloadavg()[0],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def report(figures: list[dict[str, Any]], **notes: Any) -> None:
    """Prints the one line that the suite reads."""
    print(json.dumps({"figures": figures, "about": about() | notes}))
