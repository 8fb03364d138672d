"""`manifest.csv` of the media folder: every file with its size and hash.

If the source has clips, each row also has the id of its clip.
"""

from pathlib import Path

import pandas as pd

from cace.system.files import (
    expect_file,
    name_as_text,
    name_from_text,
    publish,
    reading,
    sha256,
    write_atomically,
)
from cace.system.workers import progress

MANIFEST = "manifest.csv"


def list_files(media: Path, entries: list[dict[str, str]]) -> pd.DataFrame:
    """The entries with the size and hash of their `file`, relative to `media`."""
    return pd.DataFrame(
        {**entry, "bytes": file.stat().st_size, "sha256": sha256(file)}
        for entry in progress(entries, "download: hashes")
        for file in [media / entry["file"]]
    )


def publish_media(media: Path, manifest: pd.DataFrame, out: Path) -> None:
    """Writes the manifest into a finished media folder, and moves the folder to `out`."""
    table = manifest.assign(file=manifest["file"].map(name_as_text))
    write_atomically(media / MANIFEST, table.to_csv(index=False))
    publish(media, out)


def read_manifest(media: Path) -> pd.DataFrame:
    """The rows of the manifest, all values as text."""
    path = expect_file(media / MANIFEST, made_by="download")
    with reading(path, made_by="download"):
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        return table.assign(file=table["file"].map(name_from_text))
