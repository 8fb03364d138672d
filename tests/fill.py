"""Numbers from names: deterministic weights, features and labels, the same bits on every platform.

A random generator may change between versions; this rule cannot. Every array is a SplitMix64
stream whose state starts at the CRC-32 of its name, so it needs neither a seed nor a file.
"""

import json
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DATA = Path(__file__).parent / "data"
GUIDES = ("Co-Guide", "Audio-Guide", "Visual-Guide", "None")  # of CACE-Net
SEGMENTS = 10
CATEGORIES = 28
BACKGROUND = CATEGORIES  # its index in a one-hot label


@cache
def h(name: str, shape: tuple[int, ...]) -> Tensor:
    """Numbers in [-1, 1) that depend on the name and the flat index alone."""
    count = np.arange(1, np.prod(shape, dtype=int) + 1, dtype=np.uint64)
    z = np.uint64(zlib.crc32(name.encode())) + count * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    unit = (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return torch.from_numpy(2 * unit - 1).reshape(shape)


def fill_param(key: str, shape: tuple[int, ...]) -> Tensor:
    """The value of one state-dict entry; `key` is without `module.`."""
    values = h(key, shape)
    if len(shape) > 1:
        return values * (3 / np.prod(shape[1:])) ** 0.5  # unit gain: the variance of h is 1/3
    if key.endswith("weight"):
        return 1 + 0.2 * values  # the gain of a LayerNorm
    if key == "localize_module.classifier.bias":
        return 1 + 0.1 * values  # so that both events and background are predicted
    return 0.1 * values


def state_dict_shapes(guide: str) -> dict[str, tuple[int, ...]]:
    """Every entry of a published checkpoint, in its order, for 512-channel visual features."""
    entries = json.loads((DATA / f"state_dict_{guide}.json").read_text())["state_dict"]
    return {key: tuple(shape) for key, shape in entries}


def params(guide: str, visual_channels: int = 512) -> dict[str, Tensor]:
    """A filled state dict, keyed as the published one without `module.`."""
    shapes = state_dict_shapes(guide) | {"v_fc.weight": (512, visual_channels)}
    return {key: fill_param(key, shape) for key, shape in shapes.items()}


def inputs(
    batch: int = 3, segments: int = SEGMENTS, grid: int = 7, visual: int = 512, audio: int = 128
) -> tuple[Tensor, Tensor]:
    """Visual (B,T,grid,grid,V) and audio (B,T,A) features, not negative, as real ones are."""
    cells = h("input.visual", (batch, segments, grid, grid, visual))
    shared = h("input.visual.segment", (batch, segments, 1, 1, visual))
    return (cells + shared).relu(), h("input.audio", (batch, segments, audio)).relu()


def labels() -> Tensor:
    """One-hot (3,10,29): an all-event clip, one with two event segments, one with nine."""
    category = torch.full((3, SEGMENTS), BACKGROUND)
    category[0] = 23
    category[1, 3:5] = 0
    category[2] = 27
    category[2, 6] = BACKGROUND
    return torch.nn.functional.one_hot(category, CATEGORIES + 1).double()


def contrast_case(k_noise: float = 0.3, channels: int = 256) -> tuple[Tensor, Tensor, Tensor]:
    """Unit rows q and k (6,10,C), and is_event (6,10) with 0, 1, 2, 5, 9 and 10 events.

    k_noise: 0.3 is the saturated regime that the published settings work in; 1.0 is not saturated.
    """
    rows = (6, SEGMENTS, channels)
    raw = h("contrast.base", (6, 1, channels)) + 0.5 * h("contrast.q", rows)
    noisy = raw + k_noise * h("contrast.k", rows)
    is_event = torch.zeros(rows[:2], dtype=torch.float64)
    is_event[1, 4] = 1
    is_event[2, 3:5] = 1
    is_event[3, [0, 1, 2, 8, 9]] = 1
    is_event[4] = 1
    is_event[4, 6] = 0
    is_event[5] = 1
    return _unit(raw.relu()), _unit(noisy.relu()), is_event


def noise(batch: int = 3, segments: int = SEGMENTS, channels: int = 256) -> Tensor:
    """Stand-in (T,B,D) for the normal noise that makes k."""
    return h("noise", (segments, batch, channels))


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=-1, keepdim=True)
