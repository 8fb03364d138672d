"""DVC stage: decode picture and sound of every clip into data/clips, once.

Source released has no clips: its labels and splits are checked and written instead.
"""

from pathlib import Path

import numpy as np

from cace.conventions import SPLITS
from cace.data.annotations import known_categories, read_annotations, save_annotations
from cace.data.sources.released_labels import read_published
from cace.media.store import decode_clips, media_files
from cace.settings import DecodeParams, load_params
from cace.system.errors import UserError, listed, run
from cace.system.files import expect_file, publish, sha256, write_json
from cace.system.scratch import scratch
from cace.system.workers import workers

MEDIA, CLIPS, METRICS = Path("data/media"), Path("data/clips"), Path("metrics/decode.json")


def main() -> None:
    """Decodes, or takes the labels alone."""
    params = load_params()
    manifest = sha256(expect_file(MEDIA / "manifest.csv", made_by="download"))
    if params.decode is None:
        write_labels(manifest)
    else:
        categories = known_categories(params.data.source)
        decode(params.decode, categories, manifest, params.compute.engine)


def decode(
    params: DecodeParams, categories: tuple[str, ...] | None, manifest: str, engine: str
) -> None:
    """Decodes, counts what could not be used, and stops where that is too much."""
    settings = params.model_dump(exclude={"max_bad_fraction"})
    annotations = read_annotations(MEDIA, categories)
    with scratch("decode", manifest, annotations, settings) as work:
        clips = work / "clips"
        clips.mkdir(exist_ok=True)
        files = media_files(MEDIA, annotations)
        index = decode_clips(
            files, annotations, clips, **settings, workers=workers(), engine=engine
        )
        bad = index[~index["usable"]]
        reasons = listed([f"{row.id}: {row.reason}" for row in bad.itertuples()])
        if len(bad) > params.max_bad_fraction * len(index):
            raise UserError(
                f"decode: {len(bad)} of {len(index)} clips cannot be used, and "
                f"decode.max_bad_fraction allows a share of {params.max_bad_fraction:g}:{reasons}\n"
                f"{clips / 'clips.csv'} holds them all. Mend or remove them, or allow more, which "
                f"goes on with what is decoded"
            )
        if len(bad):
            print(f"decode: left out {len(bad)} of {len(index)} clips:{reasons}")
        counts = {
            "clips": len(index),
            "used": len(index) - len(bad),
            "refused": len(bad),
            "padded": int(index["padded"].sum()),
        }
        write_json(METRICS, {"decode": counts})
        publish(clips, CLIPS)


def write_labels(manifest: str) -> None:
    """Writes the published labels and splits, and says where the published files differ."""
    annotations, labels, differences = read_published(MEDIA)
    if differences:
        shown = "\n  ".join(differences.values())
        print(f"decode: {len(differences)} rows differ; labels.h5 is used:\n  {shown}")
    splits = [row.split for row in annotations.rows]
    without_event = np.flatnonzero((labels == annotations.background).all(axis=1))
    with scratch("decode", manifest) as work:
        clips = work / "clips"
        clips.mkdir(exist_ok=True)
        save_annotations(clips / "annotations.json", annotations)
        np.save(clips / "labels.npy", labels)
        counts = {"clips": len(annotations.ids), "rows": len(annotations.rows)}
        per_split = {split: splits.count(split) for split in SPLITS}
        rows = {"without_event": without_event.tolist(), "labels_differ": list(differences)}
        write_json(METRICS, {"decode": {**counts, **per_split, **rows}})
        publish(clips, CLIPS)


if __name__ == "__main__":
    run(main)
