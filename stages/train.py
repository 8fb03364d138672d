"""DVC stage: train the localizer, once per seed, and the two one-modality baselines."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch

from cace.errors import run
from cace.features import FeatureStore
from cace.params import Params, load_params
from cace.training import UNIMODAL, Curve, Design, Objective, Silenced, fit
from cace.workspace import publish, scratch, workers, write_atomically, write_json
from stages.device import choose_device

FEATURES = Path("data/features.h5")


class Job(NamedTuple):
    """One localizer to train."""

    name: str
    seed: int
    silenced: Silenced | None


def main() -> None:
    """Trains all, writes the models, their curves, and what the val split says."""
    params = load_params()
    FeatureStore(FEATURES)  # fails here, before any process starts
    seeds = params.train.seeds
    jobs = [Job(f"seed-{seed}", seed, None) for seed in seeds]
    jobs += [Job(name, seeds[0], silenced) for name, silenced in UNIMODAL.items()]
    with scratch("train", Path.cwd().as_posix()) as work:
        curves = train_all(jobs, work / "localizer", params)
        publish(work / "localizer", Path("data/models/localizer"))
    for seed in seeds:
        table = pd.DataFrame(curves[f"seed-{seed}"])
        write_atomically(Path(f"metrics/curves/seed-{seed}.csv"), table.to_csv(index=False))
    best = {name: max(curve, key=lambda row: row["val_accuracy"]) for name, curve in curves.items()}
    accuracy = pd.Series([best[f"seed-{seed}"]["val_accuracy"] for seed in seeds])
    write_json(
        Path("metrics/train.json"),
        {
            "val": {
                "accuracy": float(accuracy.mean()),
                "accuracy_std": float(accuracy.std()) if len(seeds) > 1 else None,
            },
            "best_epoch": {name: int(row["epoch"]) for name, row in best.items()},
        },
    )


def train_all(jobs: list[Job], models: Path, params: Params) -> dict[str, Curve]:
    """Side by side with one thread each on a CPU, one after the other on a GPU."""
    device = choose_device()
    if device.type == "cuda":
        curves = [train_one(job, models, params, device, position=0) for job in jobs]
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(workers(), len(jobs)), mp_context=context) as pool:
            running = [
                pool.submit(train_one, job, models, params, device, position)
                for position, job in enumerate(jobs)
            ]
            curves = [job.result() for job in running]
    return dict(zip((job.name for job in jobs), curves, strict=True))


def train_one(job: Job, models: Path, params: Params, device: torch.device, position: int) -> Curve:
    """One localizer, from settings to checkpoints."""
    torch.set_num_threads(1)
    guidance, bece, train = params.guidance, params.bece, params.train
    return fit(
        FeatureStore(FEATURES),
        models / job.name,
        seed=job.seed,
        design=Design(
            guidance=guidance.mode,
            beta=guidance.beta,
            psi=guidance.psi,
            bece=bece.enabled,
            bece_lambda=bece.lambda_,
            bece_noise=bece.noise,
            alpha=params.localizer.alpha,
            gamma=params.localizer.gamma,
        ),
        objective=Objective(
            **train.model_dump(exclude={"seeds"}),
            contrast_start=bece.start,
            contrast_weight=bece.weight,
            contrast_tau=bece.tau,
        ),
        device=device,
        silenced=job.silenced,
        bar_position=position,
    )


if __name__ == "__main__":
    run(main)
