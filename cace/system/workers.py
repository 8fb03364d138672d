"""Processes for parallel work, and the display of its progress."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import Connection
from typing import ParamSpec, TypeVar

from tqdm import tqdm

from cace.system.errors import UserError, shown

Item = TypeVar("Item")
Options = ParamSpec("Options")


class LostError(Exception):
    """A separate process hangs or has crashed; the text says which."""


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


def in_process(
    work: Callable[Options, Iterator[Item]],
    deadline_seconds: float,
    *arguments: Options.args,
    **options: Options.kwargs,
) -> Generator[Item, None, None]:
    """The items of a generator that runs in a separate process, a few ahead.

    The first process imports the module of `work`, for about a second of CPU. Later ones are forks
    of a server that has done so, where the system has such servers.

    work: a generator function, which a new process can import.
    deadline_seconds: for each item.
    Raises: LostError if an item takes longer, or the process crashes; what `work` raises.
    """
    spawn, servers = multiprocessing.get_context("spawn"), multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver") if "forkserver" in servers else spawn
    context.set_forkserver_preload([work.__module__])
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(there, work, arguments, options), daemon=True)
    process.start()
    there.close()
    try:
        while True:
            if not here.poll(deadline_seconds):
                raise LostError(f"nothing within {deadline_seconds:g} s")
            try:
                item, error = here.recv()
            except (EOFError, OSError):  # it ended, perhaps within an item
                process.join()
                raise LostError(f"crashed (exit code {process.exitcode})") from None
            if error is not None:
                raise error
            if item is None:
                return
            yield item
    finally:
        process.kill()
        process.join()
        here.close()


def _send(
    to: Connection,
    work: Callable[..., Iterator[object]],
    arguments: tuple[object, ...],
    options: dict[str, object],
) -> None:
    """In the separate process: pairs of an item and an error; the last one has no item."""
    _end_with(os.getppid())  # the server ends with its own parent
    try:
        for item in work(*arguments, **options):
            to.send((item, None))
        to.send((None, None))
    except BrokenPipeError:  # nobody reads on
        pass
    except Exception as error:
        to.send((None, error))


def _end_with(parent: int) -> None:
    """Ends this process soon after its parent; an orphan would keep using memory and cores."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def stopping_on_sigterm() -> Iterator[None]:
    """In this block SIGTERM raises SystemExit, so that what is temporary is removed."""

    def stop(number: int, _: object) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
