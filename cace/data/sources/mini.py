"""Source mini: drawn objects and synthesized sounds, rendered to mp4 files in the AVE layout.

It shows that the pipeline works without a download; it is no evidence about AVE. Object and sound
come and go independently, so that neither picture nor sound alone tells events from background.

With the same versions of the libraries, the files are equal on every x86-64 processor: sounds.py
explains how for the samples, and the codecs here compute only with integers.

In order: the categories, what happens in a clip, its picture, its sound, and `render`, which
writes the set. Objects are in drawings.py, sounds in sounds.py.
"""

import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from math import cos, radians, sin
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from jaxtyping import Float, Int16, UInt8
from numpy.random import Generator, default_rng
from PIL import Image, ImageColor, ImageDraw

from cace.conventions import SAMPLE_RATE, SEGMENTS, SPLITS
from cace.data.sources import drawings, sounds
from cace.data.sources.drawings import Colour, Pen, sine
from cace.data.sources.sounds import Sound
from cace.system.files import write_atomically
from cace.system.workers import progress, worker_processes


class Category(NamedTuple):
    """How a category looks and sounds."""

    name: str  # as in AVE
    draw: Callable[[Pen, Colour, float], None]
    sound: Callable[[Generator], Sound]
    sway: float  # degrees to either side
    colours: str  # each clip picks one and varies it a little


CATEGORIES = (
    Category("Church bell", drawings.bell, sounds.toll, 20, "goldenrod peru darkkhaki slategray"),
    Category("Bark", drawings.dog, sounds.bark, 3, "saddlebrown tan dimgray sandybrown gainsboro"),
    Category(
        "Fixed-wing aircraft, airplane",
        drawings.airplane,
        sounds.jet,
        6,
        "white lightsteelblue khaki",
    ),
    Category(
        "Race car, auto racing",
        drawings.race_car,
        sounds.racing,
        2,
        "crimson royalblue gold limegreen",
    ),
    Category(
        "Helicopter",
        drawings.helicopter,
        sounds.rotor,
        6,
        "olivedrab firebrick steelblue gold silver",
    ),
    Category("Violin, fiddle", drawings.violin, sounds.bowed, 4, "sienna chocolate brown peru"),
    Category(
        "Acoustic guitar",
        drawings.guitar,
        sounds.plucked,
        4,
        "burlywood peru goldenrod steelblue sienna",
    ),
    Category("Train horn", drawings.train, sounds.horn, 1, "darkgreen navy maroon dimgray"),
    Category("Clock", drawings.clock, sounds.ticking, 0, "gold crimson steelblue dimgray seagreen"),
    Category(
        "Baby cry, infant cry", drawings.baby, sounds.cry, 7, "peachpuff burlywood sienna bisque"
    ),
    Category(
        "Chainsaw", drawings.chainsaw, sounds.sawing, 3, "orange orangered limegreen gold royalblue"
    ),
    Category("Cat", drawings.cat, sounds.meow, 5, "darkorange gray dimgray wheat saddlebrown"),
)

# --- what happens in a clip

FULL_CLIP_SHARE = 0.1  # of the clips: an event from end to end


class _Plan(NamedTuple):
    own: int  # the clip's category, an index into CATEGORIES
    start: int  # of the event, in seconds
    end: int  # exclusive
    kinds: tuple[str, ...]  # of each second: event, none, seen, heard or contradicted
    visible: tuple[int | None, ...]  # the category in the picture of each second
    audible: tuple[int | None, ...]  # and in its sound


def _plan(rng: Generator, own: int) -> _Plan:
    """One event, and around it background of all kinds in runs of 1 to 4 seconds."""
    length = SEGMENTS if rng.random() < FULL_CLIP_SHARE else int(rng.integers(2, 8))
    start = int(rng.integers(SEGMENTS - length + 1))
    other = (own + int(rng.integers(1, len(CATEGORIES)))) % len(CATEGORIES)
    background = (
        ("none", None, None),
        ("seen", own, None),
        ("heard", None, own),
        ("contradicted", own, other),
        ("contradicted", other, own),
    )
    segments: list[tuple[str, int | None, int | None]] = []
    while len(segments) < SEGMENTS:
        if len(segments) == start:
            segments += [("event", own, own)] * length
        else:
            room = (start if len(segments) < start else SEGMENTS) - len(segments)
            run = background[rng.choice(5, p=(0.1, 0.25, 0.25, 0.2, 0.2))]
            segments += [run] * min(int(rng.integers(1, 5)), room)
    return _Plan(own, start, start + length, *zip(*segments, strict=True))


# --- its picture

SUPERSAMPLING = 3
POSES = 8
PAN = 6  # pixels by which the view wanders to either side


class _Actor:
    """An object of one category, as it looks and moves in one clip."""

    def __init__(self, rng: Generator, category: Category, width: int, height: int) -> None:
        side = min(width, height)
        pixels = round(side * rng.uniform(0.46, 0.72))
        base = ImageColor.getrgb(rng.choice(category.colours.split()))
        red, green, blue = (int(c) for c in (base + rng.integers(-25, 26, 3)).clip(0, 255))
        mirrored, tilt = rng.random() < 0.5, rng.uniform(-10, 10)
        self.poses = []
        for phase in np.arange(POSES) / POSES:
            pen = Pen(pixels * SUPERSAMPLING)
            category.draw(pen, (red, green, blue), float(phase))
            angle = tilt + category.sway * sine(phase)
            pose = _rotated(pen.image.reduce(SUPERSAMPLING), angle)
            self.poses.append(pose.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else pose)
        self.motions_per_second = rng.uniform(0.6, 1.2)
        # It drifts within the central square, which a square crop of the frame keeps.
        self.centre = np.array([width - pixels, height - pixels]) / 2
        self.reach = (side - pixels) / 2
        self.drift = _Drift(rng)

    def appear(self, frame: Image.Image, seconds: float) -> None:
        """Draws the object into the frame."""
        pose = self.poses[int(seconds * self.motions_per_second * POSES) % POSES]
        x, y = self.centre + self.reach * self.drift(seconds)
        frame.paste(pose, (round(x), round(y)), pose)


def _rotated(image: Image.Image, degrees: float) -> Image.Image:
    """Turned counterclockwise around its centre, as by Pillow, but with a rounded matrix."""
    c, s = round(cos(radians(degrees)), 5), round(sin(radians(degrees)), 5)
    x, y = image.width / 2, image.height / 2
    matrix = (c, -s, x - c * x + s * y, s, c, y - s * x - c * y)
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)


class _Drift:
    """A slow closed path through the square [-1, 1]²."""

    def __init__(self, rng: Generator) -> None:
        self.rates, self.starts = rng.uniform(0.05, 0.25, 2), rng.uniform(0, 1, 2)

    def __call__(self, seconds: float) -> Float[np.ndarray, "2"]:
        return np.array([sine(turns) for turns in (seconds * self.rates + self.starts).tolist()])


def _backdrop(rng: Generator, width: int, height: int) -> Image.Image:
    """Large and small blotches of other colours, and plain shapes that mean nothing."""
    pixels = np.full((height, width, 3), rng.uniform(70, 185, 3))
    for cells, contrast in ((2, 60), (int(rng.integers(6, 24)), rng.uniform(5, 40))):
        light, tint = (
            rng.integers(128, size=(cells, cells, 1)),
            rng.integers(128, size=(cells, cells, 3)),
        )
        blotches = light + tint
        image = Image.fromarray(blotches.astype(np.uint8))
        smooth = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
        pixels += contrast * (smooth / 128 - 1)
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(1, 6)):
        x, y = rng.uniform(0, (width, height))
        dx, dy = rng.uniform(0.04, 0.18, 2) * height
        outline = (draw.ellipse, draw.rectangle)[rng.integers(2)]
        outline((x - dx, y - dy, x + dx, y + dy), fill=tuple(rng.integers(20, 235, 3).tolist()))
    return image


def _picture(
    rng: Generator, plan: _Plan, width: int, height: int, fps: int
) -> UInt8[np.ndarray, "frames height width 3"]:
    scene, view = _backdrop(rng, width + 2 * PAN, height + 2 * PAN), _Drift(rng)
    present = dict.fromkeys(index for index in plan.visible if index is not None)
    actors = {index: _Actor(rng, CATEGORIES[index], width, height) for index in present}
    # All frames share one sheet of grain; each shows another part of it.
    grain = rng.normal(0, rng.uniform(2, 7), (height + 32, width + 32, 1)).astype(np.int16)
    frames = np.empty((SEGMENTS * fps, height, width, 3), np.uint8)
    for number, pixels in enumerate(frames):
        x, y = (PAN * (1 + view(number / fps))).astype(int)
        frame = scene.crop((x, y, x + width, y + height))
        index = plan.visible[number // fps]
        if index is not None:
            actors[index].appear(frame, number / fps)
        u, v = rng.integers(33, size=2)
        grainy = np.asarray(frame) + grain[v : v + height, u : u + width]
        np.clip(grainy, 0, 255, out=pixels, casting="unsafe")
    return frames


# --- its sound

FADE = round(0.02 * SAMPLE_RATE)  # samples: a border without a click


def _soundtrack(rng: Generator, plan: _Plan) -> Int16[np.ndarray, " samples"]:
    """The sounds of the plan, over an ambience from 2 dB louder to 18 dB softer than they are."""
    loudness = _gain(rng.uniform(-30, -18))
    track = loudness * _gain(rng.uniform(-18, 2)) * sounds.noise(rng, rng.uniform(0, 1))
    for index in dict.fromkeys(index for index in plan.audible if index is not None):
        sound = CATEGORIES[index].sound(rng)
        # Scaled by its power, but no further than its peaks allow: a tick has little else.
        sound *= loudness / max(sounds.rms(sound), np.abs(sound).max() / 8)
        track += sound * _gate([index == audible for audible in plan.audible])
    # Steps of 16: finer than any ambience, and FLAC needs a third less than for all 16 bits.
    return 16 * np.rint(track.clip(-1, 1) * 2047).astype(np.int16)


def _gain(decibels: float) -> float:
    return round(10 ** (decibels / 20), 6)


def _gate(audible: Sequence[bool]) -> Sound:
    """1 in the audible seconds, 0 in all others; the fades are within the audible ones."""
    level = np.repeat(np.array(audible, float), SAMPLE_RATE)
    rise = np.arange(FADE) / (FADE - 1)
    borders = np.flatnonzero(np.diff(np.pad(np.array(audible, int), 1))) * SAMPLE_RATE
    for start, end in borders.reshape(-1, 2):
        level[start : start + FADE] = rise
        level[end - FADE : end] = rise[::-1]
    return level


# --- the set

# With several threads, or with routines that x264 chooses for the processor, its output varies from
# run to run. Its rate control computes in floating point, so the quantizer is constant. FLAC's
# linear prediction does so too; its fixed predictors need integers only.
X264 = {"preset": "superfast", "qp": "23", "threads": "1", "x264-params": "cpu-independent=1"}
FLAC = {"lpc_type": "fixed"}
# FFmpeg's faster conversion rounds differently with the vector instructions of each processor.
TO_YUV = Interpolation.BILINEAR | Interpolation.ACCURATE_RND

HEADER = "Category&VideoID&Quality&StartTime&EndTime"
ID_LETTERS = list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


class _Frames(NamedTuple):
    width: int  # pixels, even
    height: int
    fps: int


class _Clip(NamedTuple):
    number: int
    id: str
    split: str
    plan: _Plan

    @property
    def category(self) -> str:
        return CATEGORIES[self.plan.own].name


def render(
    folder: Path, *, clips: int, seed: int, width: int, height: int, fps: int, workers: int = 1
) -> None:
    """Writes the set into a folder; an interrupted run resumes after the clips that are complete.

    Each file depends only on the arguments other than `workers`. A clip does not depend on `clips`
    either: a larger set contains the smaller one.
    """
    (folder / "AVE").mkdir(parents=True, exist_ok=True)
    size = _Frames(width, height, fps)
    cast = [_clip(index, seed, size) for index in range(clips)]
    missing = [clip for clip in cast if not _media_path(folder, clip).exists()]
    write = partial(_write_clip, folder, seed=seed, size=size)
    if workers == 1 or len(missing) < 2:
        for clip in progress(missing, "download: clips rendered"):
            write(clip)
    else:
        with worker_processes(min(workers, len(missing))) as pool:
            done = pool.map(write, missing)
            for _ in progress(done, "download: clips rendered", total=len(missing)):
                pass
    _write_tables(folder, cast)


def _clip(index: int, seed: int, size: _Frames) -> _Clip:
    # The id depends on all that the file depends on, so a file of that name needs no other check.
    letters = default_rng([seed, index, *size]).choice(ID_LETTERS, 11)
    if index % 8 == 3:  # AVE has such ids too: a command line reads them as options
        letters[0] = "-_"[index // 8 % 2]
    turn, own = divmod(index, len(CATEGORIES))
    # Of five clips of a category, three are for training; three clips make all three splits.
    split = SPLITS[(turn % 5 + own) % 3] if turn % 5 < 3 else "train"
    return _Clip(index, "".join(letters), split, _plan(default_rng([seed, index, 0]), own))


def _media_path(folder: Path, clip: _Clip) -> Path:
    return folder / "AVE" / f"{clip.id}.mp4"


def _write_clip(folder: Path, clip: _Clip, *, seed: int, size: _Frames) -> None:
    rng = default_rng([seed, clip.number, 1])
    track = _soundtrack(rng, clip.plan)
    frames = _picture(rng, clip.plan, *size)
    path = _media_path(folder, clip)
    # A unique name: a worker that outlives an interrupted run may still be writing the same clip.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as file:
        video = file.add_stream("libx264", rate=size.fps, options=X264)
        video.width, video.height, video.pix_fmt = size.width, size.height, "yuv420p"
        audio = file.add_stream("flac", rate=SAMPLE_RATE, layout="mono", options=FLAC)
        converter = VideoReformatter()
        for number, pixels in enumerate(frames):
            rgb = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            picture = converter.reformat(rgb, format="yuv420p", interpolation=TO_YUV, threads=1)
            picture.pts, picture.time_base = number, Fraction(1, size.fps)
            file.mux(video.encode(picture))
        wave = av.AudioFrame.from_ndarray(track[None], format="s16", layout="mono")
        wave.pts, wave.sample_rate, wave.time_base = 0, SAMPLE_RATE, Fraction(1, SAMPLE_RATE)
        file.mux(audio.encode(wave))
        for stream in (video, audio):
            file.mux(stream.encode(None))
    temporary.replace(path)


def _write_tables(folder: Path, cast: Sequence[_Clip]) -> None:
    """Annotations and splits as in AVE, and in truth.csv what is visible and audible."""
    rows = [f"{c.category}&{c.id}&good&{c.plan.start}&{c.plan.end}\n" for c in cast]
    for split in SPLITS:
        chosen = [row for clip, row in zip(cast, rows, strict=True) if clip.split == split]
        write_atomically(folder / f"{split}Set.txt", "".join(chosen))
    truth = ["VideoID,Split,Category,Second,Visible,Audible,Event,Kind\n"]
    for clip in cast:
        plan = clip.plan
        for second, kind in enumerate(plan.kinds):
            visible, audible = (
                int(what[second] == plan.own) for what in (plan.visible, plan.audible)
            )
            flags = f"{second},{visible},{audible},{int(kind == 'event')},{kind}"
            truth.append(f'{clip.id},{clip.split},"{clip.category}",{flags}\n')
    write_atomically(folder / "truth.csv", "".join(truth))
    write_atomically(folder / "Annotations.txt", f"{HEADER}\n" + "".join(rows))
