"""A cell of the table of cross-modality localization: one matcher, trained over seeds and scored.

Unlike in the other tables, the trained models are kept: `cace match` uses them.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from cace import paths
from cace.features.store import FeatureStore
from cace.matching import checkpoints
from cace.matching.clips import Clips, read_clips
from cace.matching.content_free import content_free
from cace.matching.protocol import Modality
from cace.matching.split import splits_of
from cace.matching.training import Schedule, choose, train
from cace.matching.windows import Partial, measures, one_hot, partial_events
from cace.settings import Source
from cace.system.device import choose_device
from cace.system.errors import UserError
from cace.system.files import publish, sha256, write_atomically, write_json
from cace.system.scratch import scratch

STAGE = "matching/dvc.yaml:train"
DIRECTIONS: dict[str, Modality] = {"a2v": "audio", "v2a": "visual"}  # by the given modality


def run_cell(
    name: str,
    features: Path,
    media: Path,
    source: Source,
    schedule: Schedule,
    seeds: tuple[int, ...],
) -> None:
    """Trains a matcher once per seed, scores it on test, and publishes the cell.

    Writes data/matching/cells/<name>/ with `scores.json`, `windows.csv` (what was chosen in each
    clip) and `seed-<n>.pt`.

    media: the folder with the order files of source released.
    Raises: UserError if there is nothing to train on or to search for.
    """
    store = FeatureStore(features)
    splits = splits_of(store, source, media)
    event = store.labels != store.background
    rows = {split: np.flatnonzero(splits == split) for split in ("train", "test")}
    partial = {split: partial_events(event, rows[split]) for split in rows}
    with_event = int(event[rows["train"]].any(axis=1).sum())
    if not with_event or not len(partial["test"].rows):
        raise UserError(
            f"{features}: matching needs clips with an event in train, and clips in test with one "
            f"event that is shorter than the clip; got {with_event} and "
            f"{len(partial['test'].rows)}. Add such clips to the data"
        )
    inputs = sha256(features), splits.tolist(), source, schedule.model_dump(), seeds
    with scratch("matching", name, *inputs, stage=STAGE, item={"cell": name}) as work:
        if not (finished := work / "cell").exists():
            made = work / "unfinished"
            device = choose_device()
            about = {
                "source": source,
                "encoders": store.provenance["encoders"],
                "frames": store.provenance["settings"],
            }
            clips = read_clips(store, rows["train"], device, f"match {name}, train")
            for seed in seeds:
                if not (file := made / f"seed-{seed}.pt").exists():
                    _train_one(name, clips, schedule, seed, file, about)
            tested = read_clips(store, partial["test"].rows, device, f"match {name}, test")
            ids = [store.ids[row] for row in partial["test"].rows]
            scores = _score(name, made, seeds, tested, partial, ids)
            trained = {**schedule.model_dump(), "seeds": list(seeds)}
            write_json(made / "scores.json", {**about, **scores, "train": trained})
            made.replace(finished)
        publish(finished, paths.MATCHERS / name)


def _train_one(
    name: str, clips: Clips, schedule: Schedule, seed: int, file: Path, about: dict[str, Any]
) -> None:
    torch.set_num_threads(1)  # so that the weights do not depend on the number of cores
    torch.manual_seed(seed)
    matcher = checkpoints.MATCHERS[name](clips.channels).to(clips.visual.device)
    train(matcher, clips, schedule, f"match {name}, seed {seed}")
    checkpoints.save(file, name, matcher, {**about, "seed": seed})


def _score(
    name: str,
    made: Path,
    seeds: tuple[int, ...],
    tested: Clips,
    partial: dict[str, Partial],
    ids: list[str],
) -> dict[str, Any]:
    """The content of `scores.json`; also writes `windows.csv`."""
    test = partial["test"]
    matchers = [checkpoints.read(made / f"seed-{seed}.pt").matcher for seed in seeds]
    windows = pd.DataFrame({"id": ids, "start": test.start, "length": test.length})
    found = {}
    for direction, modality in DIRECTIONS.items():
        chosen = []
        for seed, matcher in zip(seeds, matchers, strict=True):
            starts = choose(matcher.to(tested.visual.device), tested, test, modality)
            windows[f"{direction}_seed_{seed}"] = starts
            chosen.append(one_hot(starts, test).astype(float))
        found[direction] = measures(np.stack(chosen), test)
    write_atomically(made / "windows.csv", windows.to_csv(index=False))
    rules = content_free(partial["train"], test)
    return {
        "title": matchers[0].title,
        "reconstruction": matchers[0].reconstruction,
        "parameters": sum(parameter.numel() for parameter in matchers[0].parameters()),
        "clips": len(test.rows),
        "skipped": test.skipped,
        **found,
        "content_free": {rule: measures(p[None], test) for rule, p in rules.items()},
    }
