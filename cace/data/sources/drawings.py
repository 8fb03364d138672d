"""The objects of source mini, each drawn on the unit square.

The arguments of a drawing: a pen, the colour in this clip, the phase of its motion in [0, 1).
"""

from math import pi, sin

from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]

INK, WHITE, STEEL, GLASS = (30, 26, 32), (242, 240, 232), (150, 155, 165), (150, 205, 235)
RED, GOLD, WOOD = (190, 40, 45), (235, 190, 70), (95, 62, 38)


def sine(turns: float) -> float:
    """The sine of a phase in turns, rounded, as its last digit depends on the maths library."""
    return round(sin(2 * pi * turns), 6)


def cosine(turns: float) -> float:
    """The cosine of a phase in turns, rounded too."""
    return sine(turns + 0.25)


class Pen:
    """Draws on the unit square, x to the right and y down."""

    def __init__(self, pixels: int) -> None:
        self.pixels = pixels
        self.image = Image.new("RGBA", (pixels, pixels))
        self.draw = ImageDraw.Draw(self.image)

    def disc(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        """An ellipse by its centre and radii."""
        self.draw.ellipse(self._scaled((x - rx, y - ry), (x + rx, y + ry)), fill=colour)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        """A rectangle by two corners."""
        self.draw.rectangle(self._scaled((x0, y0), (x1, y1)), fill=colour)

    def shape(self, colour: Colour, *corners: Point) -> None:
        """A polygon."""
        self.draw.polygon(self._scaled(*corners), fill=colour)

    def stroke(self, colour: Colour, width: float, *corners: Point) -> None:
        """A line through all corners."""
        thickness = max(1, round(width * self.pixels))
        self.draw.line(self._scaled(*corners), fill=colour, width=thickness, joint="curve")

    def wheel(self, x: float, y: float, r: float, phase: float) -> None:
        """A tyre with turning spokes."""
        self.disc(x, y, r, r, INK)
        self.disc(x, y, 0.65 * r, 0.65 * r, STEEL)
        for spoke in range(3):
            dx, dy = _hand(0.6 * r, phase / 3 + spoke / 6)
            self.stroke(INK, 0.02, (x - dx, y - dy), (x + dx, y + dy))

    def _scaled(self, *points: Point) -> list[Point]:
        return [(x * self.pixels, y * self.pixels) for x, y in points]


def _hand(length: float, turns: float) -> Point:
    """The tip of a clock's hand, clockwise from twelve."""
    return length * sine(turns), -length * cosine(turns)


def _shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(255, round(channel * factor)) for channel in colour)
    return red, green, blue


def bell(pen: Pen, colour: Colour, phase: float) -> None:
    dark = _shade(colour, 0.6)
    pen.box(0.3, 0.03, 0.7, 0.11, WOOD)
    pen.box(0.46, 0.1, 0.54, 0.18, STEEL)
    pen.disc(0.5 + 0.12 * sine(phase), 0.87, 0.08, 0.08, INK)
    pen.disc(0.5, 0.32, 0.2, 0.16, colour)
    pen.shape(colour, (0.3, 0.3), (0.7, 0.3), (0.76, 0.6), (0.9, 0.82), (0.1, 0.82), (0.24, 0.6))
    pen.shape(_shade(colour, 1.5), (0.36, 0.3), (0.43, 0.3), (0.38, 0.7), (0.28, 0.7))
    pen.box(0.08, 0.77, 0.92, 0.84, dark)
    pen.box(0.25, 0.56, 0.75, 0.59, dark)


def dog(pen: Pen, colour: Colour, phase: float) -> None:
    dark, jaw = _shade(colour, 0.6), 0.1 * max(0.0, sine(phase))
    pen.stroke(colour, 0.06, (0.12, 0.5), (0.04, 0.26 + 0.06 * cosine(phase)))
    for x, tint in ((0.2, dark), (0.52, dark), (0.12, colour), (0.6, colour)):
        pen.box(x, 0.6, x + 0.09, 0.94, tint)
    pen.disc(0.4, 0.56, 0.32, 0.16, colour)
    pen.shape(colour, (0.5, 0.5), (0.62, 0.25), (0.8, 0.4), (0.7, 0.64))
    pen.shape(RED, (0.74, 0.36), (0.93, 0.4), (0.9, 0.42 + jaw))
    pen.shape(colour, (0.68, 0.36), (0.92, 0.44 + jaw), (0.9, 0.47 + jaw), (0.7, 0.46))
    pen.disc(0.7, 0.27, 0.14, 0.13, colour)
    pen.shape(colour, (0.72, 0.18), (0.96, 0.28), (0.96, 0.38), (0.7, 0.4))
    pen.disc(0.955, 0.3, 0.035, 0.035, INK)
    pen.disc(0.77, 0.23, 0.025, 0.025, INK)
    pen.disc(0.61, 0.3, 0.06, 0.14, dark)
    pen.stroke(RED, 0.035, (0.54, 0.42), (0.66, 0.5))


def airplane(pen: Pen, colour: Colour, phase: float) -> None:
    dark = _shade(colour, 0.6)
    pen.shape(dark, (0.5, 0.46), (0.62, 0.46), (0.42, 0.22), (0.36, 0.22))
    pen.shape(RED, (0.04, 0.2), (0.13, 0.2), (0.27, 0.46), (0.1, 0.48))
    pen.disc(0.5, 0.51, 0.46, 0.085, colour)
    pen.shape(colour, (0.04, 0.48), (0.3, 0.45), (0.3, 0.57), (0.16, 0.55))
    pen.shape(GLASS, (0.85, 0.46), (0.9, 0.47), (0.92, 0.5), (0.85, 0.5))
    for window in range(9):
        pen.disc(0.32 + 0.055 * window, 0.49, 0.013, 0.018, INK)
    pen.shape(dark, (0.06, 0.5), (0.16, 0.5), (0.1, 0.6), (0.02, 0.6))
    pen.shape(dark, (0.46, 0.54), (0.64, 0.54), (0.36, 0.84), (0.26, 0.84))
    pen.disc(0.5, 0.67, 0.08, 0.04, STEEL)
    if phase % 0.5 < 0.25:
        pen.disc(0.29, 0.84, 0.03, 0.03, RED)


def race_car(pen: Pen, colour: Colour, phase: float) -> None:
    dark = _shade(colour, 0.6)
    pen.box(0.02, 0.3, 0.2, 0.36, dark)
    pen.box(0.07, 0.34, 0.12, 0.55, INK)
    pen.disc(0.47, 0.4, 0.065, 0.065, GOLD)
    pen.box(0.47, 0.37, 0.53, 0.41, INK)
    pen.shape(
        colour, (0.05, 0.5), (0.26, 0.42), (0.34, 0.36), (0.4, 0.45), (0.4, 0.66), (0.05, 0.66)
    )
    pen.shape(colour, (0.4, 0.45), (0.6, 0.47), (0.97, 0.6), (0.97, 0.66), (0.4, 0.66))
    pen.box(0.86, 0.62, 1.0, 0.69, dark)
    pen.disc(0.5, 0.56, 0.07, 0.07, WHITE)
    pen.stroke(INK, 0.025, (0.48, 0.53), (0.505, 0.515), (0.505, 0.6))
    for x in (0.2, 0.77):
        pen.wheel(x, 0.61, 0.135, phase)


def helicopter(pen: Pen, colour: Colour, phase: float) -> None:
    dark, reach = _shade(colour, 0.6), 0.12 + 0.33 * abs(cosine(phase))
    pen.shape(colour, (0.4, 0.42), (0.04, 0.4), (0.04, 0.45), (0.4, 0.6))
    pen.shape(dark, (0.02, 0.26), (0.08, 0.26), (0.12, 0.44), (0.03, 0.44))
    dx, dy = _hand(0.1, phase)
    pen.stroke(INK, 0.02, (0.05 - dx, 0.38 - dy), (0.05 + dx, 0.38 + dy))
    pen.disc(0.6, 0.53, 0.28, 0.17, colour)
    pen.shape(GLASS, (0.66, 0.4), (0.76, 0.4), (0.87, 0.54), (0.66, 0.54))
    pen.box(0.44, 0.44, 0.57, 0.54, GLASS)
    for x in (0.48, 0.7):
        pen.box(x, 0.66, x + 0.03, 0.8, INK)
    pen.stroke(INK, 0.035, (0.34, 0.8), (0.84, 0.8), (0.9, 0.76))
    pen.box(0.56, 0.24, 0.61, 0.4, INK)
    pen.box(0.585 - reach, 0.2, 0.585 + reach, 0.245, INK)


def violin(pen: Pen, colour: Colour, phase: float) -> None:
    dark, bow = _shade(colour, 0.5), 0.2 * sine(phase)
    for rim, tint in ((0.02, dark), (0.0, colour)):
        pen.disc(0.5, 0.78, 0.18 + rim, 0.17 + rim, tint)
        pen.disc(0.5, 0.52, 0.145 + rim, 0.13 + rim, tint)
        pen.box(0.4 - rim, 0.52, 0.6 + rim, 0.78, tint)
    for x in (0.36, 0.64):
        pen.disc(x, 0.645, 0.045, 0.06, dark)
    for x in (0.42, 0.58):
        pen.stroke(INK, 0.02, (x - 0.015, 0.6), (x + 0.015, 0.63), (x - 0.015, 0.7), (x, 0.73))
    pen.box(0.465, 0.1, 0.535, 0.6, INK)
    pen.disc(0.5, 0.07, 0.05, 0.05, dark)
    pen.shape(INK, (0.46, 0.74), (0.54, 0.74), (0.52, 0.92), (0.48, 0.92))
    pen.stroke(WHITE, 0.02, (0.14 + bow, 0.74), (0.82 + bow, 0.58))
    pen.stroke(WOOD, 0.025, (0.13 + bow, 0.7), (0.81 + bow, 0.54))


def guitar(pen: Pen, colour: Colour, phase: float) -> None:
    dark, hum = _shade(colour, 0.5), 0.01 * sine(2 * phase)
    for rim, tint in ((0.025, dark), (0.0, colour)):
        pen.disc(0.5, 0.75, 0.27 + rim, 0.21 + rim, tint)
        pen.disc(0.5, 0.5, 0.2 + rim, 0.16 + rim, tint)
    pen.disc(0.5, 0.58, 0.105, 0.105, GOLD)
    pen.disc(0.5, 0.58, 0.09, 0.09, INK)
    pen.box(0.455, 0.1, 0.545, 0.5, WOOD)
    pen.box(0.43, 0.0, 0.57, 0.1, dark)
    for y in (0.02, 0.06):
        pen.box(0.39, y, 0.61, y + 0.02, STEEL)
    pen.box(0.38, 0.79, 0.62, 0.83, WOOD)
    for x in (0.47, 0.49, 0.51, 0.53):
        pen.stroke(WHITE, 0.006, (x, 0.05), (x + hum, 0.5), (x, 0.8))


def train(pen: Pen, colour: Colour, phase: float) -> None:
    dark = _shade(colour, 0.6)
    pen.stroke(STEEL, 0.03, (0.0, 0.9), (1.0, 0.9))
    for puff in range(3):
        rise = (phase + puff / 3) % 1
        pen.disc(
            0.78 - 0.3 * rise, 0.2 - 0.12 * rise, 0.05 + 0.05 * rise, 0.05 + 0.04 * rise, WHITE
        )
    pen.box(0.75, 0.2, 0.83, 0.42, INK)
    pen.box(0.71, 0.18, 0.87, 0.23, INK)
    pen.disc(0.55, 0.4, 0.06, 0.09, GOLD)
    pen.box(0.3, 0.4, 0.9, 0.66, colour)
    pen.disc(0.9, 0.53, 0.05, 0.13, dark)
    pen.box(0.06, 0.22, 0.36, 0.7, colour)
    pen.box(0.02, 0.16, 0.4, 0.23, dark)
    pen.box(0.11, 0.29, 0.31, 0.45, GLASS)
    pen.box(0.04, 0.64, 0.9, 0.72, RED)
    pen.shape(INK, (0.86, 0.68), (0.92, 0.68), (1.0, 0.88), (0.86, 0.88))
    for x, r in ((0.19, 0.13), (0.48, 0.11), (0.72, 0.11)):
        pen.wheel(x, 0.88 - r, r, phase)
    dx, dy = _hand(0.05, phase)
    pen.stroke(INK, 0.03, (0.19 + dx, 0.76 + dy), (0.72 + dx, 0.77 + dy))


def clock(pen: Pen, colour: Colour, phase: float) -> None:
    for radius, tint in ((0.47, _shade(colour, 0.6)), (0.44, colour), (0.37, WHITE)):
        pen.disc(0.5, 0.5, radius, radius, tint)
    for hour in range(12):
        (x, y), (u, v) = _hand(0.28, hour / 12), _hand(0.34, hour / 12)
        pen.stroke(INK, 0.045 if hour % 3 == 0 else 0.02, (0.5 + x, 0.5 + y), (0.5 + u, 0.5 + v))
    for length, turns, tint in ((0.19, 0.83, INK), (0.28, 0.13, INK), (0.31, phase, RED)):
        x, y = _hand(length, turns)
        pen.stroke(tint, 0.02 if tint == RED else 0.04, (0.5, 0.5), (0.5 + x, 0.5 + y))


def baby(pen: Pen, colour: Colour, phase: float) -> None:
    dark, wail = _shade(colour, 0.8), 0.06 + 0.06 * sine(phase)
    pen.shape(GLASS, (0.2, 0.98), (0.32, 0.8), (0.68, 0.8), (0.8, 0.98))
    for x in (0.13, 0.87):
        pen.disc(x, 0.5, 0.07, 0.09, dark)
    pen.disc(0.5, 0.47, 0.38, 0.4, colour)
    pen.stroke(WOOD, 0.035, (0.5, 0.08), (0.56, 0.14), (0.5, 0.19), (0.44, 0.14), (0.5, 0.1))
    for x, inward in ((0.34, 1), (0.66, -1)):
        pen.stroke(INK, 0.03, (x - 0.08, 0.4), (x, 0.44), (x + 0.08, 0.4))
        pen.stroke(INK, 0.02, (x - 0.07 * inward, 0.32), (x + 0.08 * inward, 0.28))
        pen.disc(x - 0.07 * inward, 0.57, 0.06, 0.04, (240, 130, 120))
        pen.disc(x, 0.54 + 0.1 * phase, 0.03, 0.045, (110, 180, 255))
    pen.disc(0.5, 0.51, 0.04, 0.03, dark)
    pen.disc(0.5, 0.69, 0.14, 0.03 + wail, _shade(RED, 0.6))
    pen.disc(0.5, 0.7 + 0.5 * wail, 0.08, 0.5 * wail, (235, 110, 115))


def chainsaw(pen: Pen, colour: Colour, phase: float) -> None:
    pen.box(0.4, 0.5, 0.9, 0.66, STEEL)
    pen.disc(0.9, 0.58, 0.08, 0.08, STEEL)
    pen.stroke(INK, 0.02, (0.42, 0.58), (0.9, 0.58))
    for tooth in range(8):
        x = 0.42 + 0.06 * (tooth + phase)
        pen.shape(INK, (x, 0.5), (x + 0.03, 0.44), (x + 0.045, 0.5))
        pen.shape(INK, (x, 0.66), (x + 0.015, 0.72), (x + 0.045, 0.66))
    pen.stroke(INK, 0.06, (0.14, 0.44), (0.18, 0.24), (0.42, 0.24), (0.46, 0.44))
    pen.stroke(INK, 0.06, (0.12, 0.72), (0.02, 0.68), (0.02, 0.5), (0.12, 0.46))
    pen.shape(colour, (0.08, 0.44), (0.48, 0.4), (0.52, 0.74), (0.08, 0.76))
    pen.box(0.1, 0.62, 0.48, 0.7, _shade(colour, 0.6))
    pen.disc(0.24, 0.54, 0.07, 0.07, INK)
    pen.disc(0.24, 0.54, 0.03, 0.03, STEEL)


def cat(pen: Pen, colour: Colour, phase: float) -> None:
    mouth = 0.05 * max(0.0, sine(phase))
    for side in (-1, 1):
        for tint, inset in ((colour, 0.0), ((230, 150, 150), 0.05)):
            corners = ((0.4 - inset, 0.4), (0.36 - inset / 2, 0.04 + 1.6 * inset), (0.12, 0.24))
            pen.shape(tint, *((0.5 + side * x, y) for x, y in corners))
    pen.disc(0.5, 0.54, 0.42, 0.36, colour)
    for x in (0.42, 0.5, 0.58):
        pen.stroke(_shade(colour, 0.6), 0.03, (x, 0.19), (0.5 + 0.6 * (x - 0.5), 0.34))
    pen.disc(0.5, 0.72 + mouth, 0.07, 0.05 + mouth, _shade(RED, 0.6))
    for side in (-1, 1):
        pen.disc(0.5 + side * 0.18, 0.49, 0.09, 0.08, (150, 200, 70))
        pen.disc(0.5 + side * 0.18, 0.49, 0.025, 0.075, INK)
        pen.disc(0.5 + side * 0.08, 0.67, 0.1, 0.07, _shade(colour, 1.4))
        for y in (0.56, 0.66, 0.76):
            pen.stroke(WHITE, 0.012, (0.5 + side * 0.12, 0.67), (0.5 + side * 0.48, y))
    pen.shape((225, 110, 120), (0.45, 0.59), (0.55, 0.59), (0.5, 0.65))
