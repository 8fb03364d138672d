"""The cache of the Hugging Face hub, filled without a network."""

import safetensors.torch

COMMIT = "0" * 40


def add_to_cache(cache, repository, files):
    """Puts files into the cache as the hub's library does.

    files: by name, their bytes, or the tensors of a safetensors file.
    """
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text(COMMIT)
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for name, content in files.items():
        if isinstance(content, dict):
            safetensors.torch.save_file(content, snapshot / name)
        else:
            (snapshot / name).write_bytes(content)
    return snapshot
