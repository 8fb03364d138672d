"""The paper's Figure 5 from cells of the ablations: the same clips under each kind of guidance."""

from pathlib import Path

import yaml

from ablations.guidance import guidance_page, most_disputed
from cace.evaluation.protocols import attend, load_for, prediction_table
from cace.features.batches import Split
from cace.features.store import FeatureStore
from cace.media.store import ClipStore
from cace.report.timelines import show_clips
from cace.settings import load_params
from cace.system.device import choose_device
from cace.system.files import expect_file
from cace.training.loop import evaluate

BATCH_SIZE = 64  # clips; the scores do not depend on it


def figure_5(cells: Path) -> str:
    """The page; `cells` holds the localizers of the cells that ablations/params.yaml names."""
    params = load_params()
    test = Split(FeatureStore(Path("data/features.h5")), "test", choose_device())
    modes = yaml.safe_load(Path("ablations/params.yaml").read_text())["figure_5"]
    localizers = {
        mode: load_for(test, expect_file(cells / mode / "best.pt", made_by="ablations/dvc.yaml"))
        for mode in modes
    }
    threshold = params.evaluate.threshold
    said = {
        mode: prediction_table(
            test, 0, evaluate(localizer, test, BATCH_SIZE, threshold)[1], threshold
        )
        for mode, localizer in localizers.items()
    }
    places = most_disputed(said)
    attention = {mode: attend(localizer, test, places) for mode, localizer in localizers.items()}
    clips = None if params.decode is None else ClipStore(Path("data/clips"))
    shown = show_clips(places, said, attention, clips)
    return guidance_page(params.data.source, said, shown, threshold)
