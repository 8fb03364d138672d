"""Audio encoders: one second of 32 kHz sound to one feature."""

import contextlib
import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from cace.conventions import SAMPLE_RATE
from cace.encoders import transformers_models
from cace.encoders.mel import mel_filters
from cace.encoders.vggish import VGGish
from cace.encoders.weights import load_into, read_weights, weights_file
from cace.system.errors import UserError

# The front end of Cnn14 (Kong et al. 2020), which logmel shares.
WINDOW, HOP, MEL_BANDS, LOWEST_HZ, HIGHEST_HZ = 1024, 320, 64, 50.0, 14_000.0


class AudioEncoder(nn.Module):
    """A network with its number of output channels.

    license: of its weights, where it is known.
    whole_clips: whether a segment's feature depends on the sound of the clip around it.
    """

    def __init__(self, body: nn.Module, channels: int) -> None:
        super().__init__()
        self.body = body
        self.channels = channels
        self.license: str | None = None
        self.whole_clips = False

    def forward(self, sound: Float[Tensor, "n S"]) -> Float[Tensor, "n A"]:
        """sound: the seconds of a clip in order, mono in [-1, 1]."""
        return self.body(sound)


class LogMelStatistics(nn.Module):
    """Mean and deviation over a second of the power in 64 mel bands, in units of 5 dB.

    Zero is 20 dB below unit power of the spectrum, a usual level, so that values stay within a few
    units: the localizer does not normalise its audio. Silence is -8, the noise floor of 16 bits.
    """

    window: Tensor
    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        filters = mel_filters(SAMPLE_RATE, WINDOW, MEL_BANDS, LOWEST_HZ, HIGHEST_HZ)
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)
        self.register_buffer("filters", torch.from_numpy(filters).float(), persistent=False)

    def forward(self, sound: Float[Tensor, "n S"]) -> Float[Tensor, "n 128"]:
        """sound: one second each."""
        spectrum = torch.stft(sound, WINDOW, HOP, window=self.window, return_complex=True)
        decibels = 10 * (self.filters @ spectrum.abs().square()).clamp(min=1e-6).log10()
        level = (decibels + 20) / 5
        return torch.cat([level.mean(dim=-1), level.std(dim=-1)], dim=-1)


class _Embedding(nn.Module):
    def __init__(self, cnn14: nn.Module) -> None:
        super().__init__()
        self.cnn14 = cnn14

    def forward(self, sound: Tensor) -> Tensor:
        return self.cnn14(sound)["embedding"]


def audio_encoder(name: str, weights: str, folder: Path | None = None) -> AudioEncoder:
    """Builds an audio encoder in eval mode.

    name: cnn14 (PANNs, 2048 channels, post-ReLU), vggish (128 channels, post-ReLU), logmel (128
        channels, no weights), or hf/<repository or folder>.
    weights: "audioset" (cnn14), "youtube8m" (vggish), "pretrained" (hf), a path (cnn14, vggish), or
        "none" for seeded random numbers.
    folder: with the files of an hf encoder; None: where its name says.
    Raises: UserError if weights are neither here nor available for download, or do not fit.
    """
    if name.startswith(transformers_models.PREFIX):
        return _of_transformers(name, weights, folder)
    if name == "logmel":
        if weights != "none":
            raise UserError(f"encoders.audio_weights: logmel has none, got {weights!r}; set none")
        return AudioEncoder(LogMelStatistics(), 2 * MEL_BANDS).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = VGGish() if name == "vggish" else _cnn14()
    if weights != "none":
        path = weights_file(name, weights)
        load_into(network, read_weights(path), where=str(path))
    if name == "vggish":
        return AudioEncoder(network, 128).eval()
    return AudioEncoder(_Embedding(network), 2048).eval()


def _of_transformers(name: str, weights: str, folder: Path | None) -> AudioEncoder:
    model = name.removeprefix(transformers_models.PREFIX)
    loaded = transformers_models.build(model, weights, folder)
    encoder = AudioEncoder(loaded.listener, loaded.channels)
    encoder.license, encoder.whole_clips = loaded.license, loaded.listener.whole_clips
    return encoder.eval()


def _cnn14() -> nn.Module:
    return _panns_models().Cnn14(
        sample_rate=SAMPLE_RATE,
        window_size=WINDOW,
        hop_size=HOP,
        mel_bins=MEL_BANDS,
        fmin=LOWEST_HZ,
        fmax=HIGHEST_HZ,
        classes_num=527,
    )


def _panns_models() -> types.ModuleType:
    """The package's models without its `__init__`, which downloads a file when imported."""
    alias = "_panns_inference"
    if alias not in sys.modules:
        found = importlib.util.find_spec("panns_inference")
        if found is None or not found.submodule_search_locations:
            raise UserError("package panns-inference: not installed; run `pip install -e .`")
        package = types.ModuleType(alias)
        package.__path__ = list(found.submodule_search_locations)
        sys.modules[alias] = package
    plotting = (types.ModuleType("matplotlib"), types.ModuleType("matplotlib.pyplot"))  # unused
    with _stand_ins(_librosa(), *plotting):
        return importlib.import_module(f"{alias}.models")


def _librosa() -> types.ModuleType:
    """What Cnn14's front end uses of librosa.

    The library itself compiles for up to a minute when imported, and fails if it finds no folder
    for a cache: without a home, in a read-only environment, or beside another user's cache.
    """

    def get_window(name: str, length: int, fftbins: bool) -> np.ndarray:
        from scipy.signal import get_window

        return get_window(name, length, fftbins)

    def pad_center(window: np.ndarray, size: int) -> np.ndarray:
        if len(window) != size:
            raise ValueError(f"expected a window of {size}, got {len(window)}")
        return window

    def mel(sr: int, n_fft: int, n_mels: int, fmin: float, fmax: float) -> np.ndarray:
        return mel_filters(sr, n_fft, n_mels, fmin, fmax).astype(np.float32)

    module = types.ModuleType("librosa")
    module.filters = types.SimpleNamespace(get_window=get_window, mel=mel)  # type: ignore[attr-defined]
    module.util = types.SimpleNamespace(pad_center=pad_center)  # type: ignore[attr-defined]
    return module


@contextlib.contextmanager
def _stand_ins(*modules: types.ModuleType) -> Iterator[None]:
    """Imports get these modules in place of those of the same name."""
    before = {module.__name__: sys.modules.get(module.__name__) for module in modules}
    sys.modules.update({module.__name__: module for module in modules})
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
