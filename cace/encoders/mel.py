"""Mel filters: which frequencies each band of a spectrogram adds up."""

import numpy as np
from jaxtyping import Float

# Slaney's scale: straight up to 1 kHz, logarithmic above.
STRAIGHT_HZ, BREAK_HZ = 200 / 3, 1000.0  # width of a mel, and where the scale turns
BREAK_MEL, LOG_STEP = BREAK_HZ / STRAIGHT_HZ, np.log(6.4) / 27


def mel_filters(
    rate: int, window: int, bands: int, lowest_hz: float, highest_hz: float
) -> Float[np.ndarray, "bands bins"]:
    """Triangles of equal area, whose edges are equally spaced on Slaney's mel scale.

    rate: of the sound, in Hz. window: of the Fourier transform, in samples.

    Source: Slaney 1998, Auditory Toolbox; the filters of Cnn14's front end.
    """
    lowest, highest = _to_mel(np.array([lowest_hz, highest_hz]))
    edges = _to_hz(np.linspace(lowest, highest, bands + 2))[:, None]
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    hertz = np.linspace(0, rate / 2, window // 2 + 1)
    rising, falling = (hertz - low) / (centre - low), (high - hertz) / (high - centre)
    return np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)


def _to_mel(hertz: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    above = BREAK_MEL + np.log(np.maximum(hertz, BREAK_HZ) / BREAK_HZ) / LOG_STEP
    return np.where(hertz < BREAK_HZ, hertz / STRAIGHT_HZ, above)


def _to_hz(mel: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    above = BREAK_HZ * np.exp(LOG_STEP * (mel - BREAK_MEL))
    return np.where(mel < BREAK_MEL, mel * STRAIGHT_HZ, above)
