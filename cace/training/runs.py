"""Trains several localizers side by side: one process each, on all GPUs or cores."""

import queue
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch

from cace.features.batches import UNIMODAL, Silenced
from cace.features.store import FeatureStore
from cace.localizers import localizer_class
from cace.settings import Params
from cace.system.workers import worker_processes, workers
from cace.training.curves import Curves
from cace.training.loop import Schedule, fit


class Job(NamedTuple):
    """One localizer to train."""

    name: str
    seed: int
    silenced: Silenced | None = None


def jobs_of(params: Params, *, unimodal: bool) -> list[Job]:
    """One job per seed and, if asked for, the one-modality baselines of the first seed.

    A method that reads one modality has no such baselines, and neither has weak supervision, which
    teaches that vision and sound belong together.
    """
    seeds = params.train.seeds
    jobs = [Job(f"seed-{seed}", seed) for seed in seeds]
    both = len(localizer_class(params.localizer.name).modalities) > 1
    if unimodal and both and params.supervision == "full":
        jobs += [Job(name, seeds[0], silenced) for name, silenced in UNIMODAL.items()]
    return jobs


def train_all(jobs: list[Job], features: Path, work: Path, params: Params) -> dict[str, Curves]:
    """Writes `work/localizer/<name>/` for every job, and returns its curves by name.

    Resumes what an earlier call left in `work/state`.
    """
    places = devices(len(jobs))
    if len(places) == 1:
        return {job.name: train_one(job, features, work, params, places[0]) for job in jobs}
    free: queue.Queue[tuple[int, torch.device]] = queue.Queue()
    for place in enumerate(places):
        free.put(place)
    with worker_processes(len(places)) as pool, ThreadPoolExecutor(len(places)) as threads:

        def run(job: Job) -> Curves:
            position, device = free.get()
            try:
                running = pool.submit(train_one, job, features, work, params, device, position)
                return running.result()
            finally:
                free.put((position, device))

        names = [job.name for job in jobs]
        return dict(zip(names, threads.map(run, jobs), strict=True))


def devices(jobs: int) -> list[torch.device]:
    """Where jobs can run at the same time: all GPUs, else a core of the CPU for each worker."""
    if count := torch.cuda.device_count():
        return [torch.device("cuda", number) for number in range(min(count, jobs))]
    return [torch.device("cpu")] * min(workers(), jobs)


def train_one(
    job: Job, features: Path, work: Path, params: Params, device: torch.device, position: int = 0
) -> Curves:
    """One localizer, from settings to checkpoints."""
    torch.set_num_threads(1)
    return fit(
        params.localizer.name,
        params.method,
        FeatureStore(features),
        work / "localizer" / job.name,
        state=work / "state" / f"{job.name}.pt",
        seed=job.seed,
        schedule=Schedule(**params.train.model_dump(exclude={"seeds", "narrower"})),
        device=device,
        source=params.data.source,
        silenced=job.silenced,
        weak=params.learns_from_tags,
        bar_position=position,
    )


def val_summary(curves: dict[str, Curves], seeds: tuple[int, ...]) -> dict[str, object]:
    """The content of `metrics/train.json`: the best accuracy on val over seeds, and its epochs."""
    on_val = {name: pd.DataFrame(one.train)["val_accuracy"] for name, one in curves.items()}
    accuracy = pd.Series([on_val[f"seed-{seed}"].max() for seed in seeds])
    deviation = float(accuracy.std()) if len(seeds) > 1 else None
    return {
        "val": {"accuracy": float(accuracy.mean()), "accuracy_std": deviation},
        "best_epoch": {name: int(values.argmax()) for name, values in on_val.items()},
    }
