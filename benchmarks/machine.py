"""What a benchmark says about the machine it ran on, and how it reports."""

import json
import os
import platform
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any


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
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return {
        "processor": named[0] if named else platform.processor(),
        "cores": os.cpu_count(),
        "bfloat16": [flag for flag in ("avx512_bf16", "amx_bf16") if flag in flags],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def figure(
    what: str, ours: float, theirs: float | None, unit: str, bar: str | None
) -> dict[str, Any]:
    """One row of the table; bar: what was to be reached, in words."""
    ratio = None if theirs is None else ours / theirs
    return {"what": what, "ours": ours, "theirs": theirs, "ratio": ratio, "unit": unit, "bar": bar}


def report(figures: list[dict[str, Any]], notes: dict[str, Any] | None = None) -> None:
    """Prints the one line that the suite reads."""
    print(json.dumps({"figures": figures, "about": {**about(), **(notes or {})}}))
