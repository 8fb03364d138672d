"""Two small trainings, by one process or several: `torchrun -m tests.together FOLDER`."""

import json
import sys
from pathlib import Path
from unittest.mock import patch

import torch

from cace.features.store import FeatureStore
from cace.finetuning.processes import Team, assemble
from cace.training import loop as training
from cace.training.loop import fit
from tests.stores import write_feature_store
from tests.test_finetuning import finetune_colours
from tests.test_training import CPU, DESIGN, OBJECTIVE


def train(folder: Path, team: Team) -> None:
    """Writes `report.json`. All processes of the team call this."""
    torch.set_num_threads(1)
    own = folder / f"process-{team.index}"
    own.mkdir(parents=True)
    store = FeatureStore(write_feature_store(own / "features.h5"))
    objective = OBJECTIVE._replace(batch_size=5)  # the last one, of 2 clips, is one part
    with patch.object(training, "CLIPS_AT_ONCE", 2):
        localizer = fit(
            store, folder / "seed-0", state=folder / "state.pt", seed=0, design=DESIGN,
            objective=objective, device=CPU, team=team,
        )  # fmt: skip
    encoder, _ = finetune_colours(epochs=3, maps_epochs=2, state=own / "state.pt", team=team)
    if team.leads:
        report = {
            "processes": team.count,
            "localizer": localizer.curve,
            "encoder": [epoch._asdict() for epoch in encoder],
            "files": sorted(path.name for path in (folder / "seed-0").iterdir()),
        }
        (folder / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    train(Path(sys.argv[1]), assemble())
