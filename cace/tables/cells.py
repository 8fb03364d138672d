"""A cell of a table: one setting, trained over its seeds and scored; its models are not kept."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cace import paths
from cace.evaluation import prediction_files
from cace.evaluation.protocols import evaluate_seeds, saved_predictions, summary
from cace.features.batches import Split
from cace.features.store import FeatureStore
from cace.settings import Params
from cace.system.device import choose_device
from cace.system.files import expect_file, publish, sha256, write_atomically, write_json
from cace.system.scratch import scratch
from cace.training.runs import jobs_of, train_all


class Trained(NamedTuple):
    """What `scores.json` of a cell is made from."""

    params: Params
    store: FeatureStore
    test: Split
    models: list[Path]  # folders of the seeds, with best.pt and last.pt
    made: Path  # a folder whose files are published with the scores


def run_cell(
    name: str,
    table: str,
    features: Path,
    params: Params,
    more: Callable[[Trained], Mapping[str, Any]],
    *inputs: Any,
) -> None:
    """Trains a cell, and writes its scores and its predictions on test.

    Writes data/<table>/cells/<name>/, with `scores.json` (both protocols) and `predictions.csv`,
    and metrics/<table>/predictions/<name>.csv, which is for git.

    table: one of `paths.TABLES`.
    more: what the cell contributes to `scores.json` beside the scores.
    inputs: of `more`, in addition to the features and the settings.
    """
    shaped_by = (
        sha256(expect_file(features, made_by="extract")),
        params.of_training(),
        params.evaluate.threshold,
        *inputs,
    )
    with scratch(table, *shaped_by, stage=paths.TABLES[table], item={"cell": name}) as work:
        if not (finished := work / "cell").exists():
            made = work / "unfinished"
            _train_and_score(features, params, more, work, made)
            made.replace(finished)
            for needed_no_more in ("localizer", "state"):
                shutil.rmtree(work / needed_no_more)
        predictions = (finished / "predictions.csv").read_text(encoding="utf-8")
        publish(finished, Path("data") / table / "cells" / name)
        write_atomically(predictions_file(table, name), prediction_files.for_git(predictions))


def predictions_file(table: str, name: str) -> Path:
    """A cell's predictions on test, in git."""
    return paths.METRICS / table / "predictions" / f"{name}.csv"


def _train_and_score(
    features: Path,
    params: Params,
    more: Callable[[Trained], Mapping[str, Any]],
    work: Path,
    made: Path,
) -> None:
    store, jobs = FeatureStore(features), jobs_of(params, unimodal=False)
    train_all(jobs, features, work, params)
    models, test = work / "localizer", Split(store, "test", choose_device())
    runs = evaluate_seeds(
        test,
        models,
        params.localizer.name,
        supervision=params.supervision,
        threshold=params.evaluate.threshold,
    )
    trained = Trained(params, store, test, [models / job.name for job in jobs], made)
    scores = {"encoders": store.provenance["encoders"], **summary(test, runs), **more(trained)}
    write_atomically(made / "predictions.csv", saved_predictions(test, runs))
    write_json(made / "scores.json", scores)
