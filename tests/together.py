"""A small fine-tuning, by one process or several: `torchrun -m tests.together FOLDER`."""

import json
import sys
from pathlib import Path

import torch

from cace.finetuning.processes import Team, assemble
from tests.test_finetuning import finetune_colours


def train(folder: Path, team: Team) -> None:
    """Writes `report.json`. All processes of the team call this."""
    torch.set_num_threads(1)
    own = folder / f"process-{team.index}"
    own.mkdir(parents=True)
    state = own / "state.pt"
    curve, _ = finetune_colours(epochs=3, maps_epochs=2, state=state, team=team)
    if team.leads:
        report = {"processes": team.count, "curve": [epoch._asdict() for epoch in curve]}
        (folder / "report.json").write_text(json.dumps(report))
    assert state.exists() == team.leads  # the first process alone writes


if __name__ == "__main__":
    train(Path(sys.argv[1]), assemble())
