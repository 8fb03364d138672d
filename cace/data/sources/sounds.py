"""The sounds of source mini, synthesized.

Each lasts the full clip and is audible in every second of it, at any loudness.

The samples are equal on every processor. exp, sin and powers may differ in the last digit between
processors and maths libraries. So samples come only from integers, from +, -, *, / and square
roots, which IEEE 754 rounds exactly, and from tables. A function of a single number is rounded to
a few digits, and a sum over samples is a sum of integers, which is the same in any order.
"""

from collections.abc import Sequence
from math import pi, sin, sqrt

import numpy as np
from jaxtyping import Float
from numpy.random import Generator

from cace.conventions import SAMPLE_RATE, SEGMENTS

SAMPLES = SEGMENTS * SAMPLE_RATE
STEPS = 4096  # of a turn, in the tables
SINE = np.array([round(sin(2 * pi * step / STEPS), 6) for step in range(STEPS)])
OCTAVES = 10  # of noise: from half the sampling rate down to 31 Hz

Sound = Float[np.ndarray, " _samples"]  # lengths differ: a full clip, or one bark of it


def rms(sound: Sound) -> float:
    """Root mean square."""
    steps = np.rint(4096 * sound).astype(np.int64)
    return sqrt(int(np.vdot(steps, steps)) / len(steps)) / 4096


def _times(seconds: float = SEGMENTS) -> Sound:
    return np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE


def _mixed(parts: Sequence[Sound]) -> Sound:
    """The sum of sounds of one length, added in order."""
    mix = parts[0].copy()
    for part in parts[1:]:
        mix += part
    return mix


def _sine(turns: Sound) -> Sound:
    """The sine of a phase in turns, from 0 on."""
    return SINE[(turns * STEPS).astype(np.int64) % STEPS]


def _fading(age: Sound) -> Sound:
    """About exp(-age): (1 - age / 1024)^1024, by ten squarings."""
    level = 1 - age / 1024
    for _ in range(10):
        level *= level
    return level


def _tone(pitch: Sound | float, harmonics: Sequence[float]) -> Sound:
    """An oscillator: pitch in Hz, for the full clip or for each sample; a level per harmonic."""
    turn = np.arange(STEPS)
    wave = _mixed([SINE[k * turn % STEPS] * level for k, level in enumerate(harmonics, start=1)])
    pitches = np.broadcast_to(pitch, np.shape(pitch) or SAMPLES)
    # The phase is an integer, in 2^-16 of a step.
    phase = np.cumsum(np.rint(pitches * (STEPS * 2**16 / SAMPLE_RATE)).astype(np.int64))
    return wave[(phase >> 16) % STEPS]


def _falling(count: int, steepness: float) -> list[float]:
    """Levels of harmonics, the fundamental first."""
    return [round(k**-steepness, 6) for k in range(1, count + 1)]


def _scale(lowest: float, semitones: Sequence[int]) -> Sound:
    """Notes in Hz, by their distance from the lowest."""
    return np.array([lowest * round(2 ** (distance / 12), 6) for distance in semitones])


def noise(rng: Generator, slope: float) -> Sound:
    """Noise of unit deviation whose spectrum falls about as 1/f^slope; a loop of two seconds."""
    loop = 2 * SAMPLE_RATE
    # Rounded: the rare large values come from a logarithm, whose last digit may differ.
    white = rng.standard_normal(loop).round(3)
    # Octave k repeats each value 2^k times, so it is white below its corner at 2^-k of the
    # bandwidth. With these levels the power below the corner is (4^slope)^k in all.
    quadruple = round(4**slope, 6)
    wave, level = white.copy(), sqrt(1 - 1 / quadruple)
    for octave in range(1, OCTAVES):
        level *= sqrt(quadruple / 2)
        values = white[loop >> octave : 2 * (loop >> octave)]
        wave += level * values.repeat(2**octave)
    return np.resize(wave / rms(wave), SAMPLES)


def _struck(partials: Sequence[float], decay: float, seconds: float) -> Sound:
    """Partials in Hz, lowest first; it fades with time constant `decay`, higher ones faster."""
    times = _times(seconds)
    rates = [(hertz / partials[0] / decay, hertz) for hertz in partials]
    return _mixed([_fading(fall * times) * _sine(hertz * times) for fall, hertz in rates])


def _swell(times: Sound) -> Sound:
    """Half a sine, from 0 to 1 and back."""
    return _sine(np.arange(len(times)) / (2 * len(times)))


def _repeated(rng: Generator, shots: list[Sound], period: float, jitter: float = 0.0) -> Sound:
    """One of the shots each period, late by up to a share `jitter` of it."""
    track = np.zeros(SAMPLES + max(map(len, shots)))
    beat = rng.uniform(0, 0.5)
    while beat < SEGMENTS / period - jitter:
        onset = int((beat + rng.uniform(0, jitter)) * period * SAMPLE_RATE)
        shot = shots[int(rng.integers(len(shots)))]
        track[onset : onset + len(shot)] += shot
        beat += 1
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
    swell = 1 + 0.3 * _sine(rng.uniform(0.1, 0.3) * _times() + rng.uniform())
    whine = _tone(rng.uniform(1800, 3200) * (1 + 0.05 * swell), [1.0, 0.0, 0.3])
    return swell * (noise(rng, rng.uniform(0.6, 0.9)) + rng.uniform(0.2, 0.5) * whine)


def racing(rng: Generator) -> Sound:
    gear = (_times() / rng.uniform(1.2, 2.5) + rng.uniform()) % 1
    engine = _tone(
        rng.uniform(110, 170) * (1 + 1.6 * np.sqrt(gear * np.sqrt(gear))), _falling(24, 0.7)
    )
    return engine + 0.3 * noise(rng, 0.5)


def rotor(rng: Generator) -> Sound:
    chop = _fading(5 * (rng.uniform(9, 15) * _times() % 1))
    return chop * (noise(rng, rng.uniform(0.7, 1)) + _tone(rng.uniform(60, 90), [1.0, 0.5]))


def bowed(rng: Generator) -> Sound:
    notes = _times() / rng.uniform(0.25, 0.6)
    scale = _scale(rng.uniform(380, 560), (0, 2, 4, 5, 7, 9, 11, 12))
    pitch = rng.choice(scale, int(notes[-1]) + 1)[notes.astype(int)]
    vibrato = 1 + 0.012 * _sine(rng.uniform(5, 7) * _times())
    stroke = np.sqrt(np.sqrt(_sine((notes % 1) / 2)))
    return stroke * _tone(pitch * vibrato, _falling(14, rng.uniform(0.7, 1)))


def plucked(rng: Generator) -> Sound:
    fade = _fading(_times(1.5) / rng.uniform(0.25, 0.5))
    scale = _scale(rng.uniform(100, 160), (0, 3, 5, 7, 10, 12, 15))
    shots = [fade * _tone(np.full(len(fade), hertz), _falling(9, 0.9)) for hertz in scale]
    return _repeated(rng, shots, rng.uniform(0.2, 0.4), jitter=0.1)


def horn(rng: Generator) -> Sound:
    lowest, timbre = rng.uniform(240, 350), _falling(9, rng.uniform(0.3, 0.6))
    return _mixed([_tone(lowest * ratio, timbre) for ratio in (1, 1.19, 1.335, 1.68)])


def ticking(rng: Generator) -> Sound:
    case = rng.uniform(1700, 2600)
    shots = [_struck([case * bend * k for k in (1, 1.7, 2.9)], 0.012, 0.1) for bend in (1, 1.15)]
    return _repeated(rng, shots, rng.uniform(0.2, 0.45))


def cry(rng: Generator) -> Sound:
    times = _times(rng.uniform(0.6, 0.85))
    swell, wobble = _swell(times), 1 + 0.02 * _sine(9 * times)
    pitch = rng.uniform(330, 480) * (0.8 + 0.4 * swell) * wobble
    timbre = [0.5, 0.7, 1.0, 0.9, 0.5, 0.4, 0.6, 0.5, 0.2, 0.1]
    shots = [np.sqrt(swell) * _tone(bend * pitch, timbre) for bend in (0.95, 1.05)]
    return _repeated(rng, shots, len(times) / SAMPLE_RATE + rng.uniform(0.05, 0.2))


def sawing(rng: Generator) -> Sound:
    revs = _sine(rng.uniform(0.4, 0.8) * _times() + rng.uniform())
    throttle = np.clip(3 * revs, -1, 1)
    buzz = _tone(rng.uniform(75, 110) * (1 + 0.25 * throttle), _falling(50, 0.15))
    return (1 + 0.3 * throttle) * (buzz + noise(rng, 0.1))


def meow(rng: Generator) -> Sound:
    times = _times(rng.uniform(0.4, 0.6))
    swell = np.sqrt(_swell(times) * np.sqrt(_swell(times)))
    bend = 0.75 + 0.5 * swell
    shots = [swell * _tone(rng.uniform(560, 800) * bend, [1.0, 0.6, 0.15, 0.05]) for _ in range(3)]
    return _repeated(rng, shots, len(times) / SAMPLE_RATE + rng.uniform(0.1, 0.3), jitter=0.1)
