"""VGGish: a second of sound to 128 numbers, as in the released features of AVE."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from cace.conventions import SAMPLE_RATE

RATE = 16_000  # Hz, of the sound that the network reads
WINDOW, HOP, FFT = 400, 160, 512  # samples: 25 ms, 10 ms, and the power of two above the window
FRAMES, MEL_BANDS, LOWEST_HZ, HIGHEST_HZ = 96, 64, 125.0, 7500.0  # a patch is 0.96 s
LOG_OFFSET = 0.01
HALF_BAND_TAPS = 161  # 80 dB down at 8.5 kHz, which would fold to 7.5 kHz and below


class VGGish(nn.Module):
    """The network behind the audio features of AVE: raw embedding, after its ReLU.

    One patch per second, from its start; no PCA, no whitening, no 8 bits.
    Layers have the names of the torchvggish weight file.

    Source: Hershey et al. 2017, "CNN architectures for large-scale audio classification", in the
    form of the AudioSet release.
    Differs: each second is resampled to 16 kHz separately, with silence around it; for the released
    features the complete clip was resampled.
    """

    half_band: Tensor
    window: Tensor
    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(*_convolutions())
        self.embeddings = nn.Sequential(
            nn.Linear(6 * 4 * 512, 4096),
            nn.ReLU(),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Linear(4096, 128),
            nn.ReLU(),
        )
        for name, constant in (
            ("half_band", torch.from_numpy(half_band()).float().view(1, 1, -1)),
            ("window", torch.hann_window(WINDOW)),
            ("filters", torch.from_numpy(mel_filters()).float()),
        ):
            self.register_buffer(name, constant, persistent=False)

    def forward(self, sound: Float[Tensor, "n S"]) -> Float[Tensor, "n 128"]:
        """sound: one second each."""
        maps = self.features(self.patches(sound)[:, None])  # [n, 512, 6, 4]
        return self.embeddings(maps.permute(0, 2, 3, 1).flatten(1))  # channels last, as trained

    def patches(self, sound: Float[Tensor, "n S"]) -> Float[Tensor, "n 96 64"]:
        """Log of the spectrum's magnitude in mel bands, 10 ms a frame."""
        halved = nn.functional.conv1d(
            sound[:, None], self.half_band, stride=SAMPLE_RATE // RATE, padding=HALF_BAND_TAPS // 2
        )
        frames = halved[:, 0].unfold(-1, WINDOW, HOP)[:, :FRAMES] * self.window
        magnitude = torch.fft.rfft(frames, FFT).abs()
        return (magnitude @ self.filters + LOG_OFFSET).log()


def half_band() -> Float[np.ndarray, " taps"]:
    """A low-pass filter at the Nyquist frequency of `RATE`: a sinc under a Kaiser window."""
    at = np.arange(HALF_BAND_TAPS) - HALF_BAND_TAPS // 2
    taps = np.sinc(at * RATE / SAMPLE_RATE) * np.kaiser(HALF_BAND_TAPS, 8.0)
    return taps / taps.sum()


def mel_filters() -> Float[np.ndarray, "257 64"]:
    """Triangles that are straight on the mel axis (HTK), not on the frequency axis.

    Those of `encoders/mel.py` are straight in Hz.
    """
    mel = _mel(np.linspace(0, RATE / 2, FFT // 2 + 1))[:, None]
    lowest, highest = _mel(np.array([LOWEST_HZ, HIGHEST_HZ]))
    edges = np.linspace(lowest, highest, MEL_BANDS + 2)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (mel - low) / (centre - low), (high - mel) / (high - centre)
    return np.maximum(0, np.minimum(rising, falling))


def _mel(hertz: np.ndarray) -> np.ndarray:
    return 1127 * np.log1p(hertz / 700)


def _convolutions() -> list[nn.Module]:
    layers: list[nn.Module] = []
    channels = 1
    for stage in ((64,), (128,), (256, 256), (512, 512)):
        for wider in stage:
            layers += [nn.Conv2d(channels, wider, kernel_size=3, padding=1), nn.ReLU()]
            channels = wider
        layers.append(nn.MaxPool2d(2))
    return layers
