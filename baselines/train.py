"""DVC stage of the baselines: train one method over its seeds, and score it."""

import argparse
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from cace import paths
from cace.evaluation.metrics import always_background, never_background
from cace.evaluation.predict import load_for
from cace.evaluation.protocols import evaluate_seeds, prediction_table, summary
from cace.features.batches import Split
from cace.features.store import FeatureStore
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

SETTINGS = Path("baselines/settings")
CELLS = Path("data/baselines/cells")


def main() -> None:
    """Writes data/baselines/cells/<method>/: scores of both protocols, predictions on test."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method", help=f"a file in {SETTINGS}, without .yaml")
    method = parser.parse_args().method
    params = settings(method)
    inputs = (
        sha256(expect_file(paths.FEATURES, made_by="extract")),
        params.of_training(),
        params.evaluate.threshold,
    )
    stage = "baselines/dvc.yaml:train"
    with scratch("baselines", *inputs, stage=stage, item={"method": method}) as work:
        if not (finished := work / "cell").exists():
            made = work / "unfinished"
            train_cell(work, made, params)
            made.replace(finished)
            for needed_no_more in ("localizer", "state"):
                shutil.rmtree(work / needed_no_more)
        publish(finished, CELLS / method)


def train_cell(work: Path, into: Path, params: Params) -> None:
    """Trains and scores a method, and writes its files."""
    store, jobs = FeatureStore(paths.FEATURES), jobs_of(params, unimodal=False)
    method, models = params.localizer.name, work / "localizer"
    train_all(jobs, paths.FEATURES, work, params)
    test = Split(store, "test", choose_device())
    runs = evaluate_seeds(test, models, method, threshold=params.evaluate.threshold)
    first = load_for(test, models / jobs[0].name / "best.pt", method)
    tables = [prediction_table(test, seed, run.predictions) for seed, run in runs.items()]
    write_atomically(into / "predictions.csv", pd.concat(tables).to_csv(index=False))
    write_json(
        into / "scores.json",
        {
            "title": first.title,
            "reconstruction": first.reconstruction,
            "parameters": sum(parameter.numel() for parameter in first.parameters()),
            "encoders": store.provenance["encoders"],
            "train": params.train.model_dump(mode="json"),
            "anchors": {
                "always_background": always_background(test.labels, store.background),
                "never_background": never_background(test.labels, store.background),
            },
            **summary(test, runs),
        },
    )


def settings(method: str) -> Params:
    """The profile's, with the settings that the method was published with.

    Raises: UserError if there is no such method, or its file has an error.
    """
    file = SETTINGS / f"{method}.yaml"
    if not file.is_file():
        known = sorted(path.stem for path in SETTINGS.glob("*.yaml"))
        raise UserError(f"{SETTINGS}: expected one of {', '.join(known)}, got {method!r}")
    published: dict[str, Any] = read_yaml(read_text(file), file)
    few_clips = published.pop("few_clips")
    params = load_params()
    published["train"]["seeds"] = params.baselines.seeds
    if params.baselines.few_clips:
        published["train"] |= few_clips
    return changed(params, published, where=str(file))


if __name__ == "__main__":
    run(main)
