"""CACE-Net: audio-visual event localization from raw video clips.

A clip of 10 s is T = 10 segments of 1 s. A segment is an event of a category when that category is
both visible and audible in it, and background otherwise. The localizer predicts for each segment
whether it is an event, and for the clip which category.

Axes: B clips, T segments, H W grid, P = H x W positions, V visual, A audio, D model channels,
C categories; F frames, S sound samples.

Reading order: settings, data, media, encoders, finetuning, features, extraction, localizers,
training, evaluation, inference, report.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cace.inference import load

__all__ = ["load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`cace.load`, imported when it is used: `cace --help` should not wait seconds for torch."""
    if name == "load":
        from cace.inference import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
