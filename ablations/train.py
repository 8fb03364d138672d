"""DVC stage of the ablations: train and score one cell."""

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch

from ablations import contrast
from ablations.contrast import Contrast
from cace import paths
from cace.evaluation.predict import load_for
from cace.evaluation.protocols import evaluate_seeds, summary
from cace.features.batches import Split
from cace.features.store import FeatureStore
from cace.localizers.cace_net import CaceNet
from cace.settings import Params, changed, load_params
from cace.system.device import choose_device
from cace.system.errors import UserError, run
from cace.system.files import (
    expect_file,
    publish,
    read_text,
    read_yaml,
    sha256,
    write_atomically,
    write_json,
)
from cace.system.scratch import scratch
from cace.training.runs import jobs_of, train_all

CELLS = Path("ablations/params.yaml")


def main() -> None:
    """Trains all seeds of the cell, and writes data/ablations/cells/<cell>/.

    `scores.json` has the scores of both protocols and the effect of the contrast. For the cells
    that Figure 5 shows, `best.pt` is the localizer of the first seed.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cell", help=f"a name under `cells` in {CELLS}")
    cell = parser.parse_args().cell
    params = settings(cell)
    out = Path("data/ablations/cells") / cell
    features = paths.FEATURES
    if (own := Path("data/ablations") / cell).is_dir():
        features = own / "features.h5"
        if not features.exists():
            write_json(
                out / "scores.json",
                {"not_run": (own / "not_run.txt").read_text(encoding="utf-8").strip()},
            )
            return
    shown = cell in read_cells()["figure_5"]
    inputs = (
        sha256(expect_file(features, made_by="extract")),
        params.of_training(),
        params.evaluate.threshold,
        shown,
    )
    with scratch("ablations", *inputs, stage="ablations/dvc.yaml:train") as work:
        if not (finished := work / "cell").exists():
            made = work / "unfinished"
            train_cell(features, work, made, params, shown=shown)
            made.replace(finished)
            for needed_no_more in ("localizer", "state"):
                shutil.rmtree(work / needed_no_more)
        publish(finished, out)


def train_cell(features: Path, work: Path, into: Path, params: Params, *, shown: bool) -> None:
    """Trains and scores a cell, and writes its files.

    shown: with the localizer of the first seed, which Figure 5 shows.
    """
    store, device = FeatureStore(features), choose_device()
    jobs, models = jobs_of(params, unimodal=False), work / "localizer"
    train_all(jobs, features, work, params)
    test = Split(store, "test", device)
    runs = evaluate_seeds(test, models, params.localizer.name, threshold=params.evaluate.threshold)
    at_the_end = contrast_at_the_end(
        Split(store, "train", device), sorted(models.glob("seed-*/last.pt")), params
    )
    if shown:
        best = models / jobs[0].name / "best.pt"
        write_atomically(into / "best.pt", best.read_bytes())
    write_json(
        into / "scores.json",
        {
            "epochs": params.train.epochs,
            "encoders": store.provenance["encoders"],
            **summary(test, runs),
            "contrast": at_the_end._asdict(),
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
    cells: dict[str, Any] = read_yaml(read_text(expect_file(CELLS, made_by="train")), CELLS)
    return cells


def contrast_at_the_end(train: Split, files: list[Path], params: Params) -> Contrast:
    """After the last epoch, a mean over seeds."""
    found = []
    for file in files:
        localizer = load_for(train, file)
        assert isinstance(localizer, CaceNet)
        torch.set_num_threads(1)
        found.append(contrast.measure(localizer, train, params.train.batch_size))
    return contrast.mean(found)


if __name__ == "__main__":
    run(main)
