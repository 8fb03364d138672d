"""DVC stage of the ablations: Figure 5, the same clips under each kind of guidance."""

from pathlib import Path

import yaml

from ablations.figure_5.page import guidance_page, most_disputed
from cace import paths
from cace.evaluation.predict import attend, load_for, predict
from cace.evaluation.protocols import prediction_table
from cace.features.batches import Split
from cace.features.store import FeatureStore
from cace.media.store import ClipStore
from cace.report.timelines import show_clips
from cace.settings import load_params
from cace.system.device import choose_device
from cace.system.errors import run
from cace.system.files import expect_file, write_atomically
from cace.system.scratch import remove_recorded

CELLS = Path("data/ablations/cells")


def main() -> None:
    """Writes data/ablations/figure_5.html, of the cells that ablations/params.yaml names."""
    remove_recorded("ablations/dvc.yaml:figure_5")
    params = load_params()
    test = Split(FeatureStore(paths.FEATURES), "test", choose_device())
    modes = yaml.safe_load(Path("ablations/params.yaml").read_text(encoding="utf-8"))["figure_5"]
    localizers = {
        mode: load_for(test, expect_file(CELLS / mode / "best.pt", made_by="ablations/dvc.yaml"))
        for mode in modes
    }
    threshold = params.evaluate.threshold
    tables = {
        mode: prediction_table(test, 0, predict(localizer, test, threshold))
        for mode, localizer in localizers.items()
    }
    places = most_disputed(tables)
    attention = {mode: attend(localizer, test, places) for mode, localizer in localizers.items()}
    clips = None if params.decode is None else ClipStore(paths.CLIPS)
    shown = show_clips(places, tables, attention, clips)
    page = guidance_page(params.data.source, tables, shown, threshold)
    write_atomically(Path("data/ablations/figure_5.html"), page)


if __name__ == "__main__":
    run(main)
