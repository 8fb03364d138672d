"""Events in video files of any length: a timeline, files for other programs, and a page."""

from cace.inference.localize import EventLocalizer
from cace.inference.models import load

__all__ = ["EventLocalizer", "load"]
