"""The page of a run: its results, how it was trained, and where it is right and wrong."""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from cace.conventions import SEGMENTS
from cace.evaluation.calibration import Bin
from cace.evaluation.error_kinds import KINDS
from cace.evaluation.predict import attend, load_for
from cace.evaluation.protocols import Evaluation
from cace.features.batches import Split
from cace.media.store import ClipStore
from cace.report import render
from cace.report.curves import Chart, chart
from cace.report.timelines import Clip, show_clips
from cace.settings import LOCALIZERS, Params
from cace.system.files import expect_file
from cace.training.curves import read_curves

SHOWN = 4  # clips that are most wrong, and as many that are most right
SHOWN_OF_A_KIND = 2  # clips with most errors of a kind
MEANING = {  # of the scores, in the order of the page
    "accuracy": "segments with the right label; background counts as one",
    "category_accuracy": "clips with an event whose category is right",
    "segment_f1": "events with their category, segment by segment",
    "event_level_f1": "complete events with their category, found if they overlap by half",
    "event_precision": "of the segments predicted as events, those that are",
    "event_recall": "of the segments with an event, those found",
    "event_f1": "harmonic mean of the two, whatever the category",
    "background_precision": "of the segments predicted as background, those that are",
    "background_recall": "of the background segments, those found",
    "background_f1": "harmonic mean of the two",
}


class Extremes(NamedTuple):
    """Places in the test split."""

    most_wrong: list[int]
    most_right: list[int]


class Kind(NamedTuple):
    """Of errors."""

    name: str
    meaning: str
    share: float  # of all segments
    accuracy_without: float  # accuracy if all errors of this kind were right
    clips: list[Clip]  # with most of them


class Learned(NamedTuple):
    """How the training of one seed went."""

    seed: str
    accuracy: Chart
    loss: Chart
    on_val: int  # the epoch with the best accuracy there
    on_test: int
    val_accuracy: float
    test_accuracy: float


class Category(NamedTuple):
    """A row of the table of categories; None if there was nothing to count."""

    name: str
    segments: int
    recall: float | None
    precision: float | None
    confused_with: str  # the wrong label that its segments got most often


def run_page(
    params: Params,
    result: Evaluation,
    test: Split,
    *,
    models: Path,
    metrics: Path,
    clips: ClipStore | None,
) -> str:
    """One HTML file.

    models, metrics: the folders in which earlier stages wrote the localizers and the curves.
    clips: None if the source has no pictures.
    Raises: UserError if a file of an earlier stage is missing.
    """
    seeds = list(result.metrics["per_seed"])
    places = extremes(result.predictions)
    examples = {name: most(counts) for name, counts in result.analysis.errors.items()}
    together = [*places.most_wrong, *places.most_right, *itertools.chain(*examples.values())]
    first = load_for(test, models / f"seed-{seeds[0]}" / "best.pt")
    shown = iter(
        show_clips(
            together,
            {f"seed {seed}": table for seed, table in result.predictions.groupby("seed")},
            {f"seed {seeds[0]}": attend(first, test, together)},
            clips,
        )
    )
    most_wrong, most_right = (list(itertools.islice(shown, len(some))) for some in places)
    kinds = [
        Kind(
            name.replace("_", " "),
            meaning,
            result.metrics["errors"][name],
            result.metrics["accuracy_without"][name],
            list(itertools.islice(shown, len(examples[name]))),
        )
        for name, meaning in KINDS.items()
    ]
    names = [*test.store.categories, "background"]
    counts = confusion_counts(result.confusion, names)
    names = [name for name, used in zip(names, _used(counts), strict=True) if used]
    counts = counts[_used(counts)][:, _used(counts)]
    return render(
        "run.html",
        source=params.data.source,
        method=first.title,
        reconstruction=first.reconstruction,
        settings=settings_of(params),
        meaning=MEANING,
        metrics=result.metrics,
        every_result=list(_leaves(result.metrics)),
        learned=[_learned(seed, metrics) for seed in seeds],
        finetuning=_finetuning(metrics / "finetune.csv"),
        categories=_categories(names, counts),
        names=names,
        counts=counts.tolist(),
        shares=(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)).tolist(),
        most_wrong=most_wrong,
        most_right=most_right,
        kinds=kinds,
        calibration=_calibration(result.analysis.reliability),
    )


def settings_of(params: Params) -> dict[str, Any]:
    """All settings that shape the run, by section; those of other methods are left out."""
    left_out = {"ablations", "baselines", "matching", "compute", *LOCALIZERS} - {
        params.localizer.name
    }
    left_out |= {"weak"} if params.supervision == "full" else {"bece"}
    return params.model_dump(mode="json", by_alias=True, exclude=left_out)


def extremes(predictions: pd.DataFrame) -> Extremes:
    """The clips with the smallest and the largest share of right segments over seeds.

    Ties are ordered by id; no clip is in both.
    """
    seeds = predictions["seed"].nunique()
    hits = (predictions["actual"] == predictions["predicted"]).to_numpy()
    right = hits.reshape(seeds, -1, SEGMENTS).sum(axis=(0, 2))
    ids = predictions["id"].to_numpy()[::SEGMENTS]
    wrong_first = sorted(range(len(right)), key=lambda k: (right[k], ids[k]))
    most_wrong = wrong_first[: min(SHOWN, len(right) // 2)]
    rest = sorted(wrong_first[len(most_wrong) :], key=lambda k: (-right[k], ids[k]))
    return Extremes(most_wrong, rest[:SHOWN])


def most(counts: Int[np.ndarray, " N"]) -> list[int]:
    """The places of the largest counts above 0; of equal ones the first."""
    order = np.argsort(-counts, kind="stable")[:SHOWN_OF_A_KIND]
    return [int(place) for place in order if counts[place]]


def _calibration(curve: list[Bin]) -> Chart:
    of_some = [(b.certainty, b.accuracy) for b in curve if b.certainty is not None]
    certainty, accuracy = zip(*of_some, strict=True)
    return chart(
        "Of the segments with this certainty, how many are right",
        {"right": accuracy, "ideal": certainty},
        share=True,
        shares=certainty,
        x_name="certainty",
    )


def _learned(seed: str, metrics: Path) -> Learned:
    curves = read_curves(metrics, seed)
    val, test = list(curves.train["val_accuracy"]), list(curves.test["test_accuracy"])
    on_val, on_test = int(np.argmax(val)), int(np.argmax(test))
    return Learned(
        seed,
        chart(
            f"Seed {seed}: accuracy after each epoch",
            {"on val": val, "on test": test},
            share=True,
            chosen={"on val": on_val, "on test": on_test},
        ),
        chart(
            f"Seed {seed}: loss and its terms on train",
            {term.replace("_", " "): list(curves.train[term]) for term in curves.terms},
        ),
        on_val,
        on_test,
        val[on_val],
        test[on_test],
    )


def _finetuning(path: Path) -> Chart | None:
    curve = pd.read_csv(expect_file(path, made_by="finetune"))
    if curve.empty:
        return None
    recalls = {f"recall at {k}": list(curve[f"recall_at_{k}"]) for k in (1, 5)}
    return chart("Fine-tuning: recall on val after each epoch", recalls, share=True)


def confusion_counts(confusion: pd.DataFrame, names: list[str]) -> Int[np.ndarray, "L L"]:
    """Number of segments over all seeds, by true label and by predicted label."""
    place = {name: k for k, name in enumerate(names)}
    counts = np.zeros((len(names), len(names)), int)
    np.add.at(counts, (confusion["actual"].map(place), confusion["predicted"].map(place)), 1)
    return counts


def _used(counts: Int[np.ndarray, "L L"]) -> Bool[np.ndarray, " L"]:
    """Labels that occur or were predicted."""
    return (counts.sum(axis=0) + counts.sum(axis=1)) > 0


def _categories(names: list[str], counts: Int[np.ndarray, "L L"]) -> list[Category]:
    """Lowest recall first."""
    rows = []
    for k, name in enumerate(names):
        true, predicted, right = counts[k].sum(), counts[:, k].sum(), counts[k, k]
        wrong = np.where(np.arange(len(names)) == k, 0, counts[k])
        rows.append(
            Category(
                name,
                int(true),
                float(right / true) if true else None,
                float(right / predicted) if predicted else None,
                f"{names[wrong.argmax()]} ({wrong.max()})" if wrong.any() else "",
            )
        )
    return sorted(rows, key=lambda row: (row.recall is None, row.recall))


def _leaves(metrics: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Names as DVC writes them, such as `test.accuracy`, with their values."""
    for key, value in metrics.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value
