"""Two processes that fine-tune together give the results of one."""

import json
import os
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from cace.finetuning.processes import Team
from tests import forks, together

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What one process and what two report of the same trainings."""
    folder = tmp_path_factory.mktemp("together")
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python")
    python = forks.programs() / "python"
    done = subprocess.run(
        [python, *launch, python, "-m", "tests.together", str(folder)],
        cwd=ROOT,
        env={**os.environ, "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    alone = folder / "alone"
    together.train(alone, Team())
    return [json.loads((at / "report.json").read_text()) for at in (alone, folder)]


def test_two_processes_were_there(both):
    assert [report["processes"] for report in both] == [1, 2]


def test_two_processes_finetune_the_encoder_as_one_does(both):
    one, two = (report["curve"] for report in both)
    # The contrast of a batch starts near log 16: its negatives are those of both processes.
    pd.testing.assert_frame_equal(pd.DataFrame(two), pd.DataFrame(one), rtol=1e-4)


class Pair:
    """A fake accelerator: the second of two processes, whose partner adds `other`."""

    process_index, num_processes = 1, 2

    def __init__(self, other):
        self.other = other

    def reduce(self, tensor, reduction):
        return tensor + self.other


def test_a_gradient_that_no_process_has_stays_away():
    kept, missing = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    kept.grad = torch.tensor([1.0, 2.0])
    # The other process has none of either.
    Team(Pair(torch.zeros(5))).add_gradients([kept, missing])
    assert kept.grad.tolist() == [1.0, 2.0] and missing.grad is None


def test_a_process_without_clips_uses_the_others_gradient():
    parameter = nn.Parameter(torch.zeros(2))
    Team(Pair(torch.tensor([1.0, 3.0, 4.0]))).add_gradients([parameter])
    assert parameter.grad.tolist() == [3.0, 4.0]


def test_gathered_rows_stand_in_order_and_carry_the_gradient_of_the_own():
    own = torch.tensor([[5.0], [6.0]], requires_grad=True)
    rows = Team(Pair(torch.tensor([[4.0], [0.0], [0.0]]))).gather(own, 3)
    (rows * rows).sum().backward()
    assert rows.flatten().tolist() == [4.0, 5.0, 6.0]
    assert own.grad.flatten().tolist() == [10.0, 12.0]


@pytest.mark.parametrize("count", [1, 2, 7])
def test_every_thing_falls_to_one_process(count):
    teams = [Team(Pair(None)), Team(Pair(None))]
    teams[0].index = 0
    shared = [place for team in teams for place in range(count)[team.own(count)]]
    assert shared == list(range(count))
