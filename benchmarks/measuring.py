"""How the benchmarks measure and report."""

import argparse
import contextlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cace.system.files import write_json
from cace.system.workers import workers

RESULTS = Path(__file__).parent / "results.json"
LIMIT_SECONDS = 180.0  # of a benchmark, unless --rounds asks for more


class Report:
    """Tells how far a benchmark is, and prints and keeps each figure as soon as it is known.

    The first figure replaces those of an earlier run of the benchmark in the file of results.
    """

    def __init__(self, name: str, about: str | None, results: Path = RESULTS) -> None:
        """about: the docstring of the benchmark; its first line says what is measured."""
        self.name, self.results = name, results
        self.figures: dict[str, dict[str, Any]] = {}
        self.notes: dict[str, Any] = {}
        self.start = time.monotonic()
        print(f"{name}: {(about or name).splitlines()[0]}", flush=True)

    @property
    def seconds(self) -> float:
        """Since the benchmark started."""
        return time.monotonic() - self.start

    def progress(self, step: str) -> None:
        """Says what is done now, or what has been found so far."""
        print(f"  {self.seconds:4.0f} s  {step}", file=sys.stderr, flush=True)

    def rounds(self, asked: int | None, share: float = 1.0) -> Iterator[int]:
        """The numbers of rounds, from 1 on: as many as are asked for.

        Without a number, those that fit into LIMIT_SECONDS, at least one: after each round the next
        one is expected to take as long.
        share: of the time that is left, for a part of the benchmark.
        """
        first = self.seconds
        until = first + share * (LIMIT_SECONDS - first)
        number = 0
        while number != asked:
            before = self.seconds
            number += 1
            self.progress(f"round {number}{f' of {asked}' if asked else ''}")
            yield number
            if asked is None and self.seconds + (self.seconds - before) > until:
                return

    def add(
        self,
        what: str,
        unit: str,
        ours: float,
        theirs: float | None = None,
        bar: str | None = None,
    ) -> None:
        """Prints and keeps one figure, or its new value after another round.

        theirs: what ours is compared with; bar: the goal, in words.
        """
        ratio = None if theirs is None else ours / theirs
        values = {"ours": ours, "theirs": theirs, "ratio": ratio, "unit": unit, "bar": bar}
        if self.figures.get(what) == {"what": what, **values}:
            return
        self.figures[what] = {"what": what, **values}
        compared = "" if theirs is None else f", compared with {theirs:.3g}: ratio {ratio:.3g}"
        goal = f" (goal: {bar})" if bar else ""
        print(f"  {what}: {ours:.3g} {unit}".rstrip() + f"{compared}{goal}", flush=True)
        results = read_results(self.results)
        results[self.name] = {
            "figures": [*self.figures.values()],
            "about": about() | self.notes,
        }
        write_json(self.results, results)


def read_results(path: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """Figures of each benchmark, by its name."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def parser(about: str | None) -> argparse.ArgumentParser:
    """Of a benchmark, with --rounds; about: its docstring."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds",
        type=int,
        help=f"how often all is measured (default: as often as {LIMIT_SECONDS:g} s allow)",
    )
    return parser


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


def in_turns(
    jobs: dict[str, Callable[[], dict[str, float]]], rounds: Iterator[int], report: Report
) -> Iterator[list[dict[str, float]]]:
    """Medians of what each job returns, after each round.

    The jobs run in turns, so that a busy machine slows all.
    """
    results: dict[str, list[dict[str, float]]] = {name: [] for name in jobs}
    for _ in rounds:
        for name, job in jobs.items():
            report.progress(name)
            results[name].append(job())
        yield [
            {key: statistics.median(one[key] for one in found) for key in found[0]}
            for found in results.values()
        ]


def steps_in_turns(
    module: str, ways: list[tuple[str, ...]], store: Path, rounds: Iterator[int], report: Report
) -> Iterator[dict[tuple[str, ...], dict[str, float]]]:
    """The fastest step of each way and the peak of its memory, after each step; they take turns.

    Each way is a process of the module, which makes a step for each line that it reads, and prints
    `seconds` and `peak` as JSON.
    """
    found: dict[tuple[str, ...], dict[str, float]] = {}
    with contextlib.ExitStack() as stack:
        processes = {
            way: stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", module, *way, str(store)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    encoding="utf-8",
                )
            )
            for way in ways
        }
        for _ in rounds:
            for way, process in processes.items():
                report.progress(" ".join(way))
                assert process.stdin and process.stdout
                process.stdin.write("\n")
                process.stdin.flush()
                once = json.loads(process.stdout.readline())
                best = min(once["seconds"], found.get(way, once)["seconds"])
                found[way] = {"seconds": best, "peak": once["peak"]}
                yield found


def answer_steps(step: Callable[[], Any]) -> Any:
    """Makes a step for each line of input; prints its CPU seconds and the peak of memory.

    Returns: the result of the last step.
    """
    result = None
    for _ in sys.stdin:
        start = time.process_time()
        result = step()
        seconds = time.process_time() - start
        print(json.dumps({"seconds": seconds, "peak": peak_megabytes() / 1000}), flush=True)
    return result


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


def children_seconds(work: Callable[[], Any]) -> float:
    """CPU seconds of the processes that some work starts and waits for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def about() -> dict[str, Any]:
    """Processor, its cores, whether the device has bfloat16, and versions."""
    import torch

    from cace.system.device import has_bfloat16

    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    gpu = torch.cuda.is_available()
    return {
        "processor": named[0] if named else platform.processor(),
        "cores": os.cpu_count(),
        "bfloat16": has_bfloat16(torch.device("cuda" if gpu else "cpu")),
        "load": os.getloadavg()[0],
        "gpu": torch.cuda.get_device_name() if gpu else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
