"""One thread, and the shapes in signatures enforced, while tests run."""

import os
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("CACE_WORKERS", "1")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else every program compiles the project again

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

from tests.project import Project

pytest_plugins = ["tests.browser"]

ROOT = Path(__file__).parent.parent
SHAPED = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in ROOT.glob("cace/**/*.py")
    if "jaxtyping" in path.read_text()
]
install_import_hook(SHAPED, "beartype.beartype")

# How long a test takes depends on what else the machine does.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


LONGEST = (
    *("test_docs.py", "test_media.py", "test_experiments.py", "test_video_page.py"),
    *("test_training.py", "test_library_encoders.py", "test_pipeline.py"),
)


def pytest_collection_modifyitems(items):
    """Long files start first; the second does not wait for the project that the first makes."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else 99)


@pytest.fixture(scope="session", autouse=True)
def _quick():
    import torch  # not in the process that hands out the tests

    torch.set_num_threads(1)
    os.fsync = lambda file: None  # what tests write need not survive a power cut


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """A small feature store; tests only read it."""
    from cace.features.store import FeatureStore  # not before the hook above
    from tests.stores import write_feature_store

    return FeatureStore(write_feature_store(tmp_path_factory.mktemp("store") / "features.h5"))


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An empty cache of the Hugging Face hub without a network; adds a repository's files."""
    import huggingface_hub.constants as constants

    from tests.hub import add_to_cache

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return partial(add_to_cache, tmp_path / "hub")


@pytest.fixture(scope="session")
def project(tmp_path_factory, worker_id):
    """After `dvc repro`, committed. Tests leave it so."""
    folder = tmp_path_factory.mktemp("project")
    if worker_id == "master":
        return finished(folder / "cace")
    common = tmp_path_factory.getbasetemp().parent / "cace"
    with FileLock(common.with_suffix(".lock")):  # the test processes share one run
        return finished(common).copy_to(folder / "cace")


def finished(folder):
    if folder.exists():
        return Project(folder)
    project = Project(folder)
    project.run("dvc", "repro")
    project.commit("run")
    return project
