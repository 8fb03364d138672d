"""DVC stage: decode picture and sound of every clip into data/clips, once.

Source released has no clips: its labels and splits are checked and written instead.
"""

from cace.data.annotations import known_categories
from cace.data.sources.released_labels import write_labels
from cace.media.pool import decode_media
from cace.media.store import read_frames
from cace.paths import CLIPS, DECODE_METRICS, FRAMES, MEDIA
from cace.settings import load_params
from cace.system.errors import run
from cace.system.workers import workers


def main() -> None:
    """Decodes, or writes only the labels."""
    params = load_params()
    if params.decode is None:
        write_labels(MEDIA, CLIPS, DECODE_METRICS)
    else:
        decode_media(
            MEDIA,
            CLIPS,
            DECODE_METRICS,
            categories=known_categories(params.data.source),
            **params.decode.model_dump() | read_frames(FRAMES)._asdict(),
            workers=workers(),
            engine=params.compute.engine,
        )


if __name__ == "__main__":
    run(main)
