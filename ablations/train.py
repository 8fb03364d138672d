"""DVC stage of the ablations: train and score one cell."""

import argparse
from pathlib import Path
from typing import Any

import torch

from ablations import contrast
from ablations.contrast import Contrast
from cace import paths
from cace.evaluation import prediction_files
from cace.evaluation.predict import load_for
from cace.features.batches import Split
from cace.localizers.cace_net import CaceNet
from cace.settings import Params, changed, load_params
from cace.system.errors import UserError, run
from cace.system.files import expect_file, read_text, read_yaml, write_atomically, write_json
from cace.tables.cells import Trained, predictions_file, run_cell

CELLS = Path("ablations/params.yaml")


def main() -> None:
    """Writes the scores, the predictions on test, and the effect of the contrast, of one cell.

    For the cells that Figure 5 shows, also `best.pt`, the localizer of the first seed.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cell", help=f"a name under `cells` in {CELLS}")
    cell = parser.parse_args().cell
    params = settings(cell)
    features = paths.FEATURES
    if (own := Path("data/ablations") / cell).is_dir():
        features = own / "features.h5"
        if not features.exists():
            reason = (own / "not_run.txt").read_text(encoding="utf-8").strip()
            write_json(Path("data/ablations/cells") / cell / "scores.json", {"not_run": reason})
            write_atomically(predictions_file("ablations", cell), prediction_files.HEADER)
            return
    shown = cell in read_cells()["figure_5"]

    def more(trained: Trained) -> dict[str, Any]:
        if shown:
            best = trained.models[0] / "best.pt"
            write_atomically(trained.made / "best.pt", best.read_bytes())
        epochs = trained.params.train.epochs
        return {"epochs": epochs, "contrast": contrast_at_the_end(trained)._asdict()}

    run_cell(cell, "ablations", features, params, more, shown)


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


def contrast_at_the_end(trained: Trained) -> Contrast:
    """After the last epoch, a mean over seeds."""
    train, found = Split(trained.store, "train", trained.test.device), []
    for folder in trained.models:
        localizer = load_for(train, folder / "last.pt")
        assert isinstance(localizer, CaceNet)
        torch.set_num_threads(1)
        found.append(contrast.measure(localizer, train, trained.params.train.batch_size))
    return contrast.mean(found)


if __name__ == "__main__":
    run(main)
