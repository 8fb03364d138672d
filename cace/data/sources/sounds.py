"""The sounds of source mini, synthesized.

Each lasts the whole clip and is heard in every second of it, at any loudness.
"""

from collections.abc import Sequence
from math import pi

import numpy as np
from jaxtyping import Float
from numpy.random import Generator

from cace.conventions import SAMPLE_RATE, SEGMENTS

SAMPLES = SEGMENTS * SAMPLE_RATE

Sound = Float[np.ndarray, " _samples"]  # lengths differ: a whole clip, or one bark of it
Spectrum = Float[np.ndarray, " harmonics"]  # levels, the fundamental first


def _times(seconds: float = SEGMENTS) -> Sound:
    return np.arange(round(seconds * SAMPLE_RATE), dtype=np.float32) / SAMPLE_RATE


def _tone(pitch: Sound | float, harmonics: Sequence[float] | Spectrum) -> Sound:
    """An oscillator: pitch in Hz, for the whole clip or for each sample; a level per harmonic."""
    steps = 4096
    turn = np.linspace(0, 2 * pi, steps, endpoint=False)
    partials = np.sin(np.outer(turn, np.arange(1, len(harmonics) + 1))) * harmonics
    pitches = np.broadcast_to(pitch, np.shape(pitch) or SAMPLES)
    position = np.cumsum(pitches, dtype=np.float64) * (steps / SAMPLE_RATE)
    return partials.sum(axis=1, dtype=np.float32)[position.astype(np.int64) % steps]


def _falling(count: int, steepness: float) -> Spectrum:
    return np.arange(1, count + 1) ** -steepness


def noise(rng: Generator, slope: float) -> Sound:
    """Noise of unit deviation whose spectrum falls as 1/f^slope; a loop of two seconds."""
    loop = 2 * SAMPLE_RATE
    spectrum = np.fft.rfft(rng.standard_normal(loop)) / np.arange(1, loop // 2 + 2) ** slope
    spectrum[: 2 * 20] = 0  # inaudible below 20 Hz, where a steep slope has most of its power
    wave = np.fft.irfft(spectrum)
    return np.resize(wave / wave.std(), SAMPLES).astype(np.float32)


def _struck(partials: Sequence[float], decay: float, seconds: float) -> Sound:
    """Partials in Hz, lowest first; it fades with time constant `decay`, higher ones faster."""
    times = _times(seconds)
    rates = [(hertz / partials[0] / decay, 2 * pi * hertz) for hertz in partials]
    return np.sum([np.exp(-fall * times) * np.sin(turn * times) for fall, turn in rates], axis=0)


def _swell(times: Sound) -> Sound:
    """Half a sine, from 0 to 1 and back."""
    return np.sin(np.linspace(0, pi, len(times), dtype=np.float32)).clip(0)


def _repeated(rng: Generator, shots: list[Sound], period: float, jitter: float = 0.0) -> Sound:
    """One of the shots each period, late by up to a share `jitter` of it."""
    track = np.zeros(SAMPLES + max(map(len, shots)), np.float32)
    for beat in np.arange(rng.uniform(0, 0.5), SEGMENTS / period - jitter):
        onset = int((beat + rng.uniform(0, jitter)) * period * SAMPLE_RATE)
        shot = shots[int(rng.integers(len(shots)))]
        track[onset : onset + len(shot)] += shot
    return track[:SAMPLES]


def toll(rng: Generator) -> Sound:
    prime = rng.uniform(230, 480)
    strike = _struck([prime * ratio for ratio in (0.5, 1, 1.19, 1.5, 2, 2.67, 4)], 1.5, 2.5)
    return _repeated(rng, [strike], rng.uniform(0.6, 0.9))


def bark(rng: Generator) -> Sound:
    swell = _swell(_times(rng.uniform(0.13, 0.2)))
    pitch, hiss = rng.uniform(280, 520) * (0.7 + 0.6 * swell), noise(rng, 0.5)[: len(swell)]
    shots = [
        swell * (_tone(bend * pitch, _falling(10, 0.4)) + 0.8 * hiss) for bend in (0.9, 1, 1.15)
    ]
    return _repeated(rng, shots, rng.uniform(0.3, 0.5), jitter=0.3)


def jet(rng: Generator) -> Sound:
    swell = 1 + 0.3 * np.sin(2 * pi * (rng.uniform(0.1, 0.3) * _times() + rng.uniform()))
    whine = _tone(rng.uniform(1800, 3200) * (1 + 0.05 * swell), [1.0, 0.0, 0.3])
    return swell * (noise(rng, rng.uniform(0.6, 0.9)) + rng.uniform(0.2, 0.5) * whine)


def racing(rng: Generator) -> Sound:
    gear = (_times() / rng.uniform(1.2, 2.5) + rng.uniform()) % 1
    engine = _tone(rng.uniform(110, 170) * (1 + 1.6 * gear**0.7), _falling(24, 0.7))
    return engine + 0.3 * noise(rng, 0.5)


def rotor(rng: Generator) -> Sound:
    chop = np.exp(-5 * (rng.uniform(9, 15) * _times() % 1))
    return chop * (noise(rng, rng.uniform(0.7, 1)) + _tone(rng.uniform(60, 90), [1.0, 0.5]))


def bowed(rng: Generator) -> Sound:
    notes = _times() / rng.uniform(0.25, 0.6)
    scale = rng.uniform(380, 560) * 2 ** (np.array([0, 2, 4, 5, 7, 9, 11, 12]) / 12)
    pitch = rng.choice(scale, int(notes[-1]) + 1)[notes.astype(int)]
    vibrato = 1 + 0.012 * np.sin(2 * pi * rng.uniform(5, 7) * _times())
    stroke = np.sin(pi * (notes % 1)).clip(0) ** 0.3
    return stroke * _tone(pitch * vibrato, _falling(14, rng.uniform(0.7, 1)))


def plucked(rng: Generator) -> Sound:
    fade = np.exp(-_times(1.5) / rng.uniform(0.25, 0.5))
    scale = rng.uniform(100, 160) * 2 ** (np.array([0, 3, 5, 7, 10, 12, 15]) / 12)
    shots = [fade * _tone(np.full(len(fade), hertz), _falling(9, 0.9)) for hertz in scale]
    return _repeated(rng, shots, rng.uniform(0.2, 0.4), jitter=0.1)


def horn(rng: Generator) -> Sound:
    lowest, timbre = rng.uniform(240, 350), _falling(9, rng.uniform(0.3, 0.6))
    return np.sum([_tone(lowest * ratio, timbre) for ratio in (1, 1.19, 1.335, 1.68)], axis=0)


def ticking(rng: Generator) -> Sound:
    case = rng.uniform(1700, 2600)
    shots = [_struck([case * bend * k for k in (1, 1.7, 2.9)], 0.012, 0.1) for bend in (1, 1.15)]
    return _repeated(rng, shots, rng.uniform(0.2, 0.45))


def cry(rng: Generator) -> Sound:
    times = _times(rng.uniform(0.6, 0.85))
    swell, wobble = _swell(times), 1 + 0.02 * np.sin(2 * pi * 9 * times)
    pitch = rng.uniform(330, 480) * (0.8 + 0.4 * swell) * wobble
    timbre = [0.5, 0.7, 1.0, 0.9, 0.5, 0.4, 0.6, 0.5, 0.2, 0.1]
    shots = [swell**0.4 * _tone(bend * pitch, timbre) for bend in (0.95, 1.05)]
    return _repeated(rng, shots, len(times) / SAMPLE_RATE + rng.uniform(0.05, 0.2))


def sawing(rng: Generator) -> Sound:
    revs = np.sin(2 * pi * (rng.uniform(0.4, 0.8) * _times() + rng.uniform()))
    throttle = np.clip(3 * revs, -1, 1)
    buzz = _tone(rng.uniform(75, 110) * (1 + 0.25 * throttle), _falling(50, 0.15))
    return (1 + 0.3 * throttle) * (buzz + noise(rng, 0.1))


def meow(rng: Generator) -> Sound:
    times = _times(rng.uniform(0.4, 0.6))
    bend = 0.75 + 0.5 * _swell(times) ** 0.7
    shots = [
        _swell(times) ** 0.8 * _tone(rng.uniform(560, 800) * bend, [1.0, 0.6, 0.15, 0.05])
        for _ in range(3)
    ]
    return _repeated(rng, shots, len(times) / SAMPLE_RATE + rng.uniform(0.1, 0.3), jitter=0.1)
