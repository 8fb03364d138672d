"""The curves of trainings as files: `curves/seed-<n>.csv` and `test_curves/seed-<n>.csv`."""

from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from cace.system.files import expect_file, write_atomically

Curve = list[dict[str, Any]]  # one entry per epoch


class Curves(NamedTuple):
    """The curves of one training."""

    train: Curve  # learning rate, loss and its terms on train, scores on val
    test: Curve  # accuracy on test: for the best-on-test protocol alone


class Tables(NamedTuple):
    """The same, as they are read from the files."""

    train: pd.DataFrame
    test: pd.DataFrame

    @property
    def terms(self) -> list[str]:
        """The columns of the loss and its terms."""
        names = [str(name) for name in self.train.columns]
        others = ("epoch", "learning_rate")
        return [name for name in names if name not in others and not name.startswith("val_")]


def write_curves(folder: Path, curves: dict[str, Curves], seeds: tuple[int, ...]) -> None:
    """Writes the files of all seeds under a folder.

    curves: by the name of the training, `seed-<n>`.
    """
    for seed in seeds:
        one = curves[f"seed-{seed}"]
        for kind, curve in (("curves", one.train), ("test_curves", one.test)):
            table = pd.DataFrame(curve).to_csv(index=False)
            write_atomically(folder / kind / f"seed-{seed}.csv", table)


def read_curves(folder: Path, seed: int | str) -> Tables:
    """Reads the files of one seed.

    Raises: UserError if one is missing.
    """
    files = (folder / kind / f"seed-{seed}.csv" for kind in ("curves", "test_curves"))
    return Tables(*(pd.read_csv(expect_file(file, made_by="train")) for file in files))
