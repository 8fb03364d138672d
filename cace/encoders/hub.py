"""Files of the Hugging Face hub: from its cache on this machine, else downloaded.

The hub's own library downloads them. It resumes, and reads HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE.
Files in the cache are used as they are, so later runs need no network and give the same result.
"""

import types
from collections.abc import Callable, Sequence
from pathlib import Path

from cace.system.errors import UserError, reason

WHEN_NEEDED = "a stage does it when it needs it"
CONFIGURATION = ("config.json", "preprocessor_config.json")  # of a model, and of what it reads


def hub_file(repository: str, names: Sequence[str], setting: str, download: bool = True) -> Path:
    """The first of these files that the repository has.

    setting: what to set after a download by hand, up to the name of the file's folder.
    download: if not, only the cache is read.
    Raises: UserError that names the file, its address and its place, or a missing package.
    """
    hub = _library(repository)

    def get() -> Path:
        for name in names:
            if isinstance(cached := hub.try_to_load_from_cache(repository, name), str):
                return Path(cached)
        if not download:
            raise FileNotFoundError(WHEN_NEEDED)
        there = [file.rfilename for file in hub.model_info(repository).siblings]
        for name in names:
            if name in there:
                return Path(hub.hf_hub_download(repository, name))
        raise FileNotFoundError("there is no such file")

    return _got(get, repository, " or ".join(names), setting)


def hub_folder(repository: str, setting: str, download: bool = True) -> Path:
    """A folder with the repository's configuration, weights and description.

    setting, download, Raises: as of `hub_file`.
    """
    hub = _library(repository)

    def get() -> Path:
        try:
            folder = Path(hub.snapshot_download(repository, local_files_only=True))
            if is_complete(folder):
                return folder
        except OSError:
            pass
        if not download:
            raise FileNotFoundError(WHEN_NEEDED)
        for weights in ("model*.safetensors", "pytorch_model*.bin"):
            wanted = ["*.json", "README.md", weights]
            folder = Path(hub.snapshot_download(repository, allow_patterns=wanted))
            if is_complete(folder):
                return folder
        raise FileNotFoundError("it lacks some of these files")

    what = f"{', '.join(CONFIGURATION)} and model.safetensors"
    return _got(get, repository, what, setting)


def is_complete(folder: Path) -> bool:
    """Whether a folder has a model's configuration and weights."""
    return has_weights(folder) and all((folder / name).is_file() for name in CONFIGURATION)


def has_weights(folder: Path) -> bool:
    """Whether a folder has a model's weights, in one file or in several."""
    return any((*folder.glob("model*.safetensors"), *folder.glob("pytorch_model*.bin")))


def _library(repository: str) -> types.ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(
            f"{repository}: huggingface_hub is not installed; run `pip install -e '.[encoders]'`"
        ) from error
    return huggingface_hub


def _got(get: Callable[[], Path], repository: str, files: str, setting: str) -> Path:
    try:
        return get()
    except Exception as error:  # of the hub's library, or of the one that it downloads with
        folder = f"data/weights/{repository.split('/')[-1]}"
        raise UserError(
            f"{repository}: not on this machine, and not downloaded ({reason(error)}). Get {files} "
            f"from https://huggingface.co/{repository}, put it into {folder}, and set "
            f"{setting}{folder}"
        ) from error
