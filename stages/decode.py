"""DVC stage: decode picture and sound of every clip into data/clips, once."""

from pathlib import Path

from cace.annotations import known_categories, read_annotations
from cace.clips import decode_clips
from cace.errors import UserError, run
from cace.params import load_params
from cace.workspace import expect_file, publish, scratch, sha256, workers, write_json

MEDIA = Path("data/media")


def main() -> None:
    """Decodes, counts what could not be used, and stops where that is too much."""
    params = load_params()
    settings = params.decode.model_dump(exclude={"max_bad_fraction"})
    manifest = expect_file(MEDIA / "manifest.csv", made_by="download")
    annotations = read_annotations(MEDIA, known_categories(params.data.source))
    with scratch("decode", sha256(manifest), annotations, settings) as work:
        clips = work / "clips"
        clips.mkdir(exist_ok=True)
        index = decode_clips(MEDIA, annotations, clips, **settings, workers=workers())
        bad = index[~index["usable"]]
        reasons = "\n  ".join(f"{row.id}: {row.reason}" for row in bad.head(20).itertuples())
        if len(bad) > params.decode.max_bad_fraction * len(index):
            raise UserError(
                f"decode: {len(bad)} of {len(index)} clips cannot be used, and "
                f"decode.max_bad_fraction allows a share of {params.decode.max_bad_fraction:g}:\n"
                f"  {reasons}\n"
                f"Mend or remove them, or allow more; what is decoded is kept for the next run"
            )
        if len(bad):
            print(f"decode: left out {len(bad)} of {len(index)} clips:\n  {reasons}")
        short = index["usable"] & (index[["picture_seconds", "sound_seconds"]].min(axis=1) < 9.99)
        counts = {"clips": len(index), "used": len(index) - len(bad), "refused": len(bad)}
        write_json(Path("metrics/decode.json"), {"decode": {**counts, "padded": int(short.sum())}})
        publish(clips, Path("data/clips"))


if __name__ == "__main__":
    run(main)
