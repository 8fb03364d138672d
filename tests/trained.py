"""Small localizers, trained briefly or not at all."""

import torch

from cace.evaluation.predict import sizes_of
from cace.features.batches import Split
from cace.localizers.parts import checkpoints
from cace.training.loop import Schedule, fit

CPU = torch.device("cpu")
NAME, SETTINGS = "cace_net", {"width": 32, "bece_start": 0.5}
SCHEDULE = Schedule(
    epochs=4, batch_size=4, learning_rate=7e-4, milestones=(2, 3), decay=0.5, max_grad_norm=0.5,
    precision="float32",
)  # fmt: skip


def train(store, into, seed=0, silenced=None, weak=None, name=NAME, settings=SETTINGS, **changes):
    """Curves; the checkpoints are in the folder `into`, the state beside it."""
    return fit(
        name, settings, store, into, state=into.parent / "state" / into.name, seed=seed,
        schedule=SCHEDULE._replace(**changes), device=CPU, source="folder", silenced=silenced,
        weak=weak,
    )  # fmt: skip


def untrained(store, split="train", name=NAME, settings=SETTINGS):
    return checkpoints.build(name, sizes_of(Split(store, split, CPU)), **settings)
