"""What importing loads, and that it works without a home folder."""

import json
import os
import subprocess
import sys

HEAVY = (
    "librosa",
    "matplotlib",
    "numba",
    "panns_inference",
    "scipy",
    "timm",
    "torchvision",
)


def run(program, **environment):
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# Training and localizing, with mini's encoders; then the names of all modules.
WITHOUT_HEAVY = """
import cace.inference, cace.training.runs, cace.localizers.cace_net
from cace.encoders import audio, visual
visual.visual_encoder("efficientnet_lite0", "imagenet")
audio.audio_encoder("logmel", "none")
import json, sys
print(json.dumps([name for name in sys.modules if "." not in name]))
"""


def test_heavy_libraries_are_imported_only_if_they_are_used():
    loaded = json.loads(run(WITHOUT_HEAVY))
    assert [name for name in HEAVY if name in loaded] == []
    assert "torch" in loaded


# No folder beside a package or under a home can be written, as in a read-only container.
READ_ONLY = """
from numba.core import caching
for name in ("_InTreeCacheLocator", "_UserWideCacheLocator"):
    if hasattr(caching, name):
        getattr(caching, name).ensure_cache_path = lambda self: (_ for _ in ()).throw(OSError())
"""


def test_every_audio_encoder_works_without_a_home_and_in_an_environment_that_is_read_only():
    program = (
        "import torch\nfrom cace.encoders.audio import audio_encoder\n"
        "def channels(name): return audio_encoder(name, 'none')(torch.zeros(1, 32000)).shape[1]\n"
        f"print(channels('logmel'), channels('vggish'))\n{READ_ONLY}print(channels('cnn14'))"
    )
    home = {"HOME": "/nonexistent", "XDG_CACHE_HOME": "/nonexistent"}
    assert run(program, **home, PYTHONDONTWRITEBYTECODE="1") == "128 128\n2048\n"
