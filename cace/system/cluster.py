"""A stage's work on the machines of a Ray cluster: `compute.engine: ray`.

The work consists of independent items. A process of the cluster writes the result of an item, or
returns its rows. If a process or a machine is lost, its item is done again elsewhere. Ray sends the
code to all machines, but not the data: they must all see the project's folder under the same path.
"""

import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cace.system.errors import UserError

Item = TypeVar("Item")
Row = dict[str, Any]
PACKAGE = Path(__file__).parent.parent


class _Worker:
    """A process of the cluster: it receives the work once, then one item after another."""

    def __init__(self, work: Any, items: Any, folder: Path, cores: int) -> None:
        import ray

        os.environ["CACE_WORKERS"] = str(cores)
        self.work, self.items = ray.get([work, items])
        self.folder = folder

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[dict[str, Any]]:
        for place in batch["place"]:
            try:
                if not self.folder.is_dir():
                    raise UserError(
                        f"{self.folder}: not there on {socket.gethostname()}; all machines of the "
                        f"cluster must see the project's folder under this path"
                    )
                for row in self.work(self.items[place]):
                    yield {key: np.asarray(value)[None] for key, value in row.items()}
            except UserError as error:  # as a row: Ray would wrap an exception in its own
                yield {"error": np.array([str(error)])}


def on_cluster(
    work: Callable[[Item], Iterator[Row]],
    items: Sequence[Item],
    folder: Path,
    cores: int = 1,
    gpu: bool = False,
) -> Iterator[Row]:
    """The rows of all items, as soon as they are available.

    work: pickled once; what it contains (for example an encoder) is loaded once in each process.
    folder: must exist under this path on all machines.
    cores: for each process, in which `cace.system.workers.workers` returns this number.
    gpu: if the cluster has GPUs, each process uses one of them, and an equal share of the cores.
    Raises: UserError if Ray is not installed, if its cluster cannot be reached or has too few
        cores, or if `work` raises one.
    """
    if not items:
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's core warns about restarts that succeed anyway; real failures arrive as exceptions.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError(
            "compute.engine: ray is not installed; run `pip install -e '.[distributed]'`, or set "
            "local"
        ) from error
    _expect_cluster(os.environ.get("RAY_ADDRESS", ""))
    # The cluster that RAY_ADDRESS names, else one that runs on this machine, else a new one.
    with ray.init(
        runtime_env={"py_modules": [str(PACKAGE)]},
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    ):
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = sum(int(machine.get("GPU", 0)) for machine in machines) if gpu else 0
        if gpus:
            cores = max(1, sum(int(machine.get("CPU", 0)) for machine in machines) // gpus)
        places = sum(int(machine.get("CPU", 0)) // cores for machine in machines)
        if not places:
            raise UserError(
                f"compute.engine: expected a machine with {cores} cores in the Ray cluster, got "
                f"none; set CACE_WORKERS to the number of cores that its machines have"
            )
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        rows = [{"place": place} for place in range(len(items))]
        results = ray.data.from_items(rows, override_num_blocks=len(items)).map_batches(
            _Worker,
            batch_size=1,
            fn_constructor_args=(ray.put(work), ray.put(items), folder, cores),
            num_cpus=cores,
            num_gpus=1 if gpus else 0,
            compute=ray.data.ActorPoolStrategy(
                size=min(len(items), gpus or places), max_tasks_in_flight_per_actor=1
            ),
        )
        for row in results.iter_rows():
            if "error" in row:
                raise UserError(row["error"])
            yield row


def _expect_cluster(address: str) -> None:
    """Raises UserError if no cluster answers at the address; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise UserError(
                f"RAY_ADDRESS: expected a Ray cluster at {address}, got: {error}; start one there "
                f"with `ray start --head --port={port}`"
            ) from None
