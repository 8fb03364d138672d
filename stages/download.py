"""DVC stage: put the clips of the chosen source into data/media, in the AVE layout.

Of source released, the released feature, label, order and annotation files.
"""

from cace.data.sources.collect import (
    collect_archive,
    collect_folder,
    collect_mini,
    collect_released,
)
from cace.paths import MEDIA
from cace.settings import load_params
from cace.system.errors import run
from cace.system.workers import workers


def main() -> None:
    """Renders, downloads or copies the files, and lists them with their hashes in manifest.csv."""
    params = load_params()
    data, encoders = params.data, params.encoders
    if params.download is not None:
        collect_mini(MEDIA, workers(), **params.download.model_dump())
    elif data.source == "released":
        collect_released(MEDIA, data.path)
    elif data.source == "ave" and data.path is None and encoders is not None:
        named = [
            (encoders.visual, encoders.visual_weights),
            (encoders.audio, encoders.audio_weights),
        ]
        collect_archive(MEDIA, data.archive, named)
    else:
        collect_folder(MEDIA, data.source, data.path)


if __name__ == "__main__":
    run(main)
