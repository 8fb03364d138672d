"""Files that are damaged at random, the same ones each time."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.videos import tone, write_video


def write_damaged(folder: Path, count: int, seed: int = 0) -> list[str]:
    """Copies of a 10 s mp4 and a webm, each with some damage; returns their names."""
    whole = [
        write_video(folder / "whole.mp4", sound=tone()),
        write_video(folder / "whole.webm", sound=tone(), codec="libvpx-vp9", sound_codec="libopus"),
    ]
    sources = [(path.suffix, path.read_bytes()) for path in whole]
    for path in whole:
        path.unlink()
    names = []
    for number, damage in zip(range(count), _damages(seed), strict=False):
        ending, data = sources[number % 2]
        names.append(f"{number:04}{ending}")
        (folder / names[-1]).write_bytes(damage(data))
    return names


def _damages(seed: int) -> Iterator:
    rng = np.random.default_rng(seed)

    def flip_bits(data):
        damaged = np.frombuffer(data, np.uint8).copy()
        places = rng.integers(len(data), size=rng.choice([1, 3, 10, 100]))
        damaged[places] ^= np.uint8(1) << rng.integers(8, size=len(places), dtype=np.uint8)
        return damaged.tobytes()

    def overwrite(data):
        at, much = rng.integers(len(data)), rng.choice([4, 100, 4000])
        return data[:at] + rng.bytes(much) + data[at + much :]

    def cut(data):
        return data[: rng.integers(len(data))]

    def repeat(data):
        begin, at = rng.integers(len(data), size=2)
        return data[:at] + data[begin : begin + rng.integers(1, 5000)] + data[at:]

    def change_headers(data):
        """Bytes of what the file declares: an mp4's index, at its end, or the begin of a webm."""
        damaged = np.frombuffer(data, np.uint8).copy()
        index = data.rfind(b"moov")
        begin, end = (index, len(data)) if index >= 0 else (0, 1500)
        places = rng.integers(begin, end, size=rng.choice([1, 2, 5, 20]))
        damaged[places] = rng.integers(256, size=len(places))
        return damaged.tobytes()

    while True:
        # Each kind for an mp4 and a webm in turn.
        yield from (d for d in (flip_bits, overwrite, cut, repeat, change_headers) for _ in (0, 1))
