"""The file in which people share a trained model: a zip archive, written and read only here.

Its entries are not compressed. `model.json` comes first and describes the model for people. Then
come one checkpoint per seed, in the order in which they are averaged, and the weights of those
encoders that are not public; of an encoder of transformers, its configuration too.
"""

import contextlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cace.encoders.hub import CONFIGURATION
from cace.system.errors import UserError, shown
from cace.system.files import as_utf8, write_atomically
from cace.system.torch_files import ZIP_START

FORMAT = "cace-model-1"
DESCRIPTION = "model.json"
VISUAL_ENCODER, AUDIO_ENCODER = "visual_encoder.pt", "audio_encoder.pt"
AUDIO_CONFIGURATION = "audio_encoder/"  # the folder of its files
NEVER = (1980, 1, 1, 0, 0, 0)  # the time of all entries: the same model gives the same bytes
# The bytes of a zip archive in which the name of its first entry is.
NAME = slice(30, 30 + len(DESCRIPTION))
# What zipfile raises for an archive that it cannot read.
BAD_ARCHIVE = (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError)


class ModelFile(NamedTuple):
    """The entries of a model's file; None for an encoder with public weights.

    audio_configuration: the files of an encoder of transformers; empty for others.
    """

    localizers: list[zipfile.Path]
    visual_encoder: zipfile.Path | None
    audio_encoder: zipfile.Path | None
    audio_configuration: list[zipfile.Path]


def write_model_file(
    path: Path, description: dict[str, Any], localizers: list[bytes], encoders: Mapping[str, bytes]
) -> None:
    """Writes the file completely or not at all.

    description: plain values about the model, for people.
    localizers: a checkpoint for each seed.
    encoders: the content of VISUAL_ENCODER and AUDIO_ENCODER, of those that are not public, and of
        the files in AUDIO_CONFIGURATION.
    """
    text = json.dumps({"format": FORMAT, **description}, indent=2, ensure_ascii=False)
    seeds = {_name_of(seed): checkpoint for seed, checkpoint in enumerate(localizers)}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in {DESCRIPTION: as_utf8(f"{text}\n"), **seeds, **encoders}.items():
            archive.writestr(zipfile.ZipInfo(name, NEVER), content)
    write_atomically(path, buffer.getbuffer())


def _name_of(place: int) -> str:
    return f"localizer-{place}.pt"


def is_model_file(path: Path) -> bool:
    """Whether a file starts like one of these; the rest of it may be damaged."""
    with contextlib.suppress(OSError):
        if path.is_file():
            with path.open("rb") as file:
                start = file.read(NAME.stop)
            return start.startswith(ZIP_START) and start[NAME] == DESCRIPTION.encode()
    return False


def open_model_file(path: Path) -> ModelFile:
    """The entries of a file of which `is_model_file` is true.

    Raises: UserError if it is damaged or incomplete, or in another format.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            description = json.loads(archive.read(DESCRIPTION))
            written_as = description["format"]
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("an entry is compressed")  # a small one could fill the memory
            if changed := archive.testzip():
                raise ValueError(f"{changed} is not as it was written")
            entries, expected = set(archive.namelist()), []
            if written_as == FORMAT:
                seeds = range(max(1, len(description["localizers"])))
                expected = [*map(_name_of, seeds), *description["contains"]]
            missing = [name for name in expected if name not in entries]
    except (*BAD_ARCHIVE, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: a damaged or incomplete model ({shown(str(error))}); get it again"
        ) from error
    if written_as != FORMAT:
        raise UserError(
            f"{path}: expected a model in the format {FORMAT}, got {shown(written_as)}; use the "
            f"version of cace that wrote it"
        )
    if missing:
        raise UserError(f"{path}: expected {missing[0]} in this model, got none; get it again")
    root = zipfile.Path(path)

    def entry(name: str) -> zipfile.Path | None:
        return root / name if name in entries else None

    configuration = [entry(AUDIO_CONFIGURATION + file) for file in CONFIGURATION]
    return ModelFile(
        [root / name for name in expected if name.startswith("localizer-")],
        entry(VISUAL_ENCODER),
        entry(AUDIO_ENCODER),
        [file for file in configuration if file],
    )
