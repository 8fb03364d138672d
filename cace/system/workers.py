"""Processes for parallel work, and the display of its progress."""

import multiprocessing
import os
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

from tqdm import tqdm

from cace.system.errors import UserError, shown

Item = TypeVar("Item")


def workers() -> int:
    """Processes to use: CACE_WORKERS, else one per core that this process may run on."""
    text = os.environ.get("CACE_WORKERS")
    if text is None:
        affinity = getattr(os, "sched_getaffinity", None)
        return len(affinity(0)) if affinity else os.cpu_count() or 1
    if not text.isdecimal() or len(text) > 5 or int(text) < 1:
        raise UserError(f"CACE_WORKERS: expected a number of processes >= 1, got {shown(text)}")
    return int(text)


def worker_processes(count: int) -> ProcessPoolExecutor:
    """Processes for parallel work; they end with this one, even if it is killed.

    They are spawned, not forked: a worker inherits no threads and no open files.
    """
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(
        count, mp_context=context, initializer=_end_with, initargs=(os.getpid(),)
    )


def _end_with(parent: int) -> None:
    """Ends this process soon after its parent; an orphan would keep using memory and cores."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def progress(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """Yields the items and shows progress: a bar on a terminal, a line for each tenth in a log."""
    total = total if total is not None else len(items)  # type: ignore[arg-type]
    bar = tqdm(items, desc=what, total=total, disable=None, dynamic_ncols=True)
    shown = 0
    for count, item in enumerate(bar, start=1):
        yield item
        if bar.disable and total and 10 * count // total > shown:
            shown = 10 * count // total
            print(f"{what}: {count}/{total}", flush=True)


def epoch_bar(epochs: range, what: str, position: int) -> "tqdm[int]":
    """A bar over epochs, on a terminal; those before `epochs.start` are done already.

    position: line of the bar, if several processes show one.
    """
    return tqdm(
        epochs, desc=what, initial=epochs.start, total=epochs.stop, position=position, disable=None
    )


def report_epoch(bar: "tqdm[int]", what: str, done: int, text: str) -> None:
    """Shows the text beside the bar; in a log, prints a line for each tenth of the epochs."""
    if not bar.disable:
        bar.set_postfix_str(text)
    elif done % max(1, int(bar.total or 0) // 10) == 0:
        print(f"{what}: epoch {done}/{bar.total}, {text}", flush=True)
