"""DVC stage of the ablations: train and score one cell."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from cace.evaluation.protocols import evaluate_seeds, summary
from cace.features.batches import Split
from cace.features.store import FeatureStore
from cace.finetuning.processes import Team
from cace.settings import Params, changed, load_params
from cace.system.device import choose_device
from cace.system.errors import UserError, run
from cace.system.files import expect_file, write_atomically, write_json
from cace.system.scratch import scratch
from cace.training.loop import Fitted
from stages.train import Job, train_all

CELLS = Path("ablations/params.yaml")


def main() -> None:
    """Trains all seeds of the cell, and writes data/ablations/cells/<cell>/.

    `scores.json` holds both protocols and what the contrast did. The cells that Figure 5 shows also
    keep `best.pt`, the localizer of their first seed.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cell", help=f"a name under `cells` in {CELLS}")
    cell = parser.parse_args().cell
    params = settings(cell)
    out = Path("data/ablations/cells") / cell
    features = Path("data/features.h5")
    if (own := Path("data/ablations") / cell).is_dir():
        features = own / "features.h5"
        if not features.exists():
            write_json(out / "scores.json", {"not_run": (own / "not_run.txt").read_text().strip()})
            return
    store = FeatureStore(features)
    jobs = [Job(f"seed-{seed}", seed, None) for seed in params.train.seeds]
    identity = params.model_dump(mode="json", exclude={"data", "evaluate", "ablations"})
    with scratch("ablations", store.provenance, identity) as work:
        fitted = train_all(jobs, features, work, params, Team())
        test = Split(store, "test", choose_device())
        runs = evaluate_seeds(
            test,
            work / "localizer",
            threshold=params.evaluate.threshold,
            batch_size=params.train.batch_size,
        )
        if cell in read_cells()["figure_5"]:
            best = work / "localizer" / jobs[0].name / "best.pt"
            write_atomically(out / "best.pt", best.read_bytes())
    write_json(
        out / "scores.json",
        {
            "epochs": params.train.epochs,
            "encoders": store.provenance["encoders"],
            **summary(test, runs, params.evaluate.threshold),
            "contrast": contrast_at_the_end(list(fitted.values())),
        },
    )


def settings(cell: str) -> Params:
    """params.yaml and the profile, with the changes of the cell and the ablations' own length."""
    ablations = read_cells()
    if cell not in ablations["cells"]:
        raise UserError(f"{CELLS}: expected one of {', '.join(ablations['cells'])}, got {cell!r}")
    params = load_params()
    length = {"train": params.ablations.model_dump()}
    for changes in (length, ablations["base"], ablations["cells"][cell]):
        params = changed(params, changes, where=f"{CELLS}, {cell}")
    return params


def read_cells() -> dict[str, Any]:
    """The content of ablations/params.yaml."""
    return yaml.safe_load(expect_file(CELLS, made_by="train").read_text())


def contrast_at_the_end(fitted: list[Fitted]) -> dict[str, float | None]:
    """Means over seeds of the last epoch's excess and share of the gradient; None: it was off."""
    last: list[dict[str, Any]] = [one.curve[-1] for one in fitted]
    return {
        name: None if last[0][key] is None else float(np.mean([row[key] for row in last]))
        for name, key in (("excess", "contrast_excess"), ("gradient", "contrast_gradient"))
    }


if __name__ == "__main__":
    run(main)
