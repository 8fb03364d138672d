"""DVC stage: train the localizer, once per seed, and the two one-modality baselines."""

from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch

from cace.features.batches import Silenced
from cace.features.store import FeatureStore
from cace.finetuning.processes import Team, assemble
from cace.settings import Params, load_params
from cace.system.device import choose_device
from cace.system.errors import run
from cace.system.files import publish, write_atomically, write_json
from cace.system.scratch import scratch
from cace.system.workers import worker_processes, workers
from cace.training.loop import UNIMODAL, Design, Fitted, Objective, fit

FEATURES = Path("data/features.h5")


class Job(NamedTuple):
    """One localizer to train."""

    name: str
    seed: int
    silenced: Silenced | None


def main() -> None:
    """Trains all, writes the models, their curves, and what the val split says."""
    params = load_params()
    team = assemble()
    seeds = params.train.seeds
    jobs = [Job(f"seed-{seed}", seed, None) for seed in seeds]
    jobs += [Job(name, seeds[0], silenced) for name, silenced in UNIMODAL.items()]
    if not team.leads:
        train_all(jobs, FEATURES, Path(), params, team)
        return
    identity = params.model_dump(mode="json", exclude={"data", "evaluate", "ablations"})
    with scratch("train", FeatureStore(FEATURES).provenance, identity) as work:
        fitted = train_all(jobs, FEATURES, work, params, team)
        for seed in seeds:
            one = fitted[f"seed-{seed}"]
            for folder, curve in (("curves", one.curve), ("test_curves", one.test_curve)):
                table = pd.DataFrame(curve).to_csv(index=False)
                write_atomically(work / folder / f"seed-{seed}.csv", table)
        on_val = {name: pd.DataFrame(one.curve)["val_accuracy"] for name, one in fitted.items()}
        accuracy = pd.Series([on_val[f"seed-{seed}"].max() for seed in seeds])
        write_json(
            Path("metrics/train.json"),
            {
                "val": {
                    "accuracy": float(accuracy.mean()),
                    "accuracy_std": float(accuracy.std()) if len(seeds) > 1 else None,
                },
                "best_epoch": {name: int(values.argmax()) for name, values in on_val.items()},
            },
        )
        publish(work / "curves", Path("metrics/curves"))
        publish(work / "test_curves", Path("metrics/test_curves"))
        publish(work / "localizer", Path("data/models/localizer"))


def train_all(
    jobs: list[Job], features: Path, work: Path, params: Params, team: Team
) -> dict[str, Fitted]:
    """Side by side with one thread each on a CPU, one after the other on a GPU or by a team.

    Writes `work/localizer/<name>/`, and goes on with what an earlier call left in `work/state`;
    both concern the first process of the team alone.
    """
    device = choose_device()
    if device.type == "cuda" or team.count > 1:
        fitted = [train_one(job, features, work, params, device, 0, team) for job in jobs]
    else:
        with worker_processes(min(workers(), len(jobs))) as pool:
            running = [
                pool.submit(train_one, job, features, work, params, device, position, team)
                for position, job in enumerate(jobs)
            ]
            fitted = [job.result() for job in running]
    return dict(zip((job.name for job in jobs), fitted, strict=True))


def train_one(
    job: Job,
    features: Path,
    work: Path,
    params: Params,
    device: torch.device,
    position: int,
    team: Team,
) -> Fitted:
    """One localizer, from settings to checkpoints."""
    torch.set_num_threads(1)
    guidance, bece, train = params.guidance, params.bece, params.train
    return fit(
        FeatureStore(features),
        work / "localizer" / job.name,
        state=work / "state" / f"{job.name}.pt",
        seed=job.seed,
        design=Design(
            guidance=guidance.mode,
            beta=guidance.beta,
            psi=guidance.psi,
            bece=bece.enabled,
            bece_lambda=bece.lambda_,
            bece_noise=bece.noise,
            bece_heads=bece.heads,
            alpha=params.localizer.alpha,
            gamma=params.localizer.gamma,
        ),
        objective=Objective(
            **train.model_dump(exclude={"seeds"}),
            contrast_start=bece.start,
            contrast_weight=bece.weight,
            contrast_tau=bece.tau,
            contrast_form=bece.form,
        ),
        device=device,
        team=team,
        silenced=job.silenced,
        bar_position=position,
    )


if __name__ == "__main__":
    run(main)
