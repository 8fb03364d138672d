"""Where the stages of the pipeline write, relative to the project's top folder."""

import os
from pathlib import Path

from cace.system.errors import UserError

INDEX = Path("data/index.csv")  # in git: what `cace index` found in a user's folder
WEIGHTS = Path("data/weights")  # the user's files of encoder weights: a dependency of stages

MEDIA = Path("data/media")  # download
FRAMES = Path("data/frames.json")  # frames
CLIPS = Path("data/clips")  # decode
VISUAL_ENCODER = Path("data/models/visual_encoder.pt")  # finetune
FEATURES = Path("data/features.h5")  # extract
LOCALIZERS = Path("data/models/localizer")  # train
PREDICTIONS = Path("data/predictions")  # evaluate
MATCHERS = Path("data/matching/cells")  # matching/dvc.yaml

# Tables of trained cells, by their folder in data/ and metrics/, and the stage of their cells.
TABLES = {
    "ablations": "ablations/dvc.yaml:train",
    "baselines": "baselines/dvc.yaml:train",
    "weak": "baselines/dvc.yaml:train_weak",
}

METRICS = Path("metrics")
DECODE_METRICS = METRICS / "decode.json"  # decode
FINETUNE_METRICS = METRICS / "finetune.json"  # finetune
FINETUNE_CURVE = METRICS / "finetune.csv"  # finetune
EVAL = METRICS / "eval.json"  # evaluate
SAVED_PREDICTIONS = METRICS / "predictions.csv"  # evaluate
CURVES, TEST_CURVES = METRICS / "curves", METRICS / "test_curves"  # train


def project_top() -> Path | None:
    """The project's top folder, from the current one on upwards, relative to the current folder.

    `Path()` in the top folder itself; None outside of a project.
    Raises: UserError if the current folder does not exist any more.
    """
    try:
        here = Path.cwd()
    except FileNotFoundError:
        raise UserError("the current folder has been removed; change to another one") from None
    for folder in (here, *here.parents):
        if all((folder / name).is_file() for name in ("params.yaml", "dvc.yaml")):
            return Path(os.path.relpath(folder, here))
    return None
