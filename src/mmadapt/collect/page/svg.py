"""Small SVG figures that take their colours from the page: frames, axes, markers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

MARKERS = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "M-3.6-3.6h7.2v7.2h-7.2z",
    "M0-4.8 4.5 3.4h-9z",
    "M0-5 4.6 0 0 5-4.6 0z",
    "M0 4.8-4.5-3.4h9z",
    "M0-4.8 4.6-1.5 2.8 3.9h-5.6L-4.6-1.5z",
    "M-4.8 0 3.4-4.5v9z",
    "M-1.5-4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
    "M4.8 0-3.4-4.5v9z",
)
"""Outlines of the markers around the origin; one per method, so that colour is never the only difference."""
COLOURS = 7
"""Number of colours in the style sheet; methods beyond get the same colours with another line and marker."""


class Frame:
    """A figure with two axes.

    Args:
        label: What the figure shows, for those who cannot see it.
        x: Range of the horizontal axis.
        y: Range of the vertical axis.
        size: Width and height in CSS pixels; the figure is scaled to the width of its panel.
        left: Space for the tick labels of the vertical axis.
        top: Space for the name of the vertical axis.
    """

    def __init__(
        self,
        label: str,
        x: tuple[float, float],
        y: tuple[float, float],
        size: tuple[int, int] = (340, 236),
        left: int = 34,
        top: int = 22,
    ) -> None:
        self.label, self.size = label, size
        width, height = size
        self.box = (left, top, width - 8, height - 34)
        self.x = scale(x, (self.box[0], self.box[2]))
        self.y = scale(y, (self.box[3], self.box[1]))
        self.parts: list[str] = []

    def add(self, part: str) -> None:
        """Append trusted markup."""
        self.parts.append(part)

    def text(self, x: float, y: float, text: str, cls: str = "ax", anchor: str = "middle") -> None:
        """Write text; ``anchor`` is ``start``, ``middle`` or ``end``."""
        self.add(f'<text class="{cls}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>')

    def path(self, points: Iterable[tuple[float, float]], cls: str) -> None:
        """Draw a line through points given in the units of the axes."""
        self.add(self.line(points, cls))

    def line(self, points: Iterable[tuple[float, float]], cls: str = "ln") -> str:
        """Return a line through points given in the units of the axes."""
        steps = "L".join(f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in points)
        return f'<path class="{cls}" d="M{steps}"/>'

    def axes(
        self, x: Sequence[tuple[float, str]], y: Sequence[tuple[float, str]], names: tuple[str, str]
    ) -> None:
        """Draw grid lines and tick labels, given as pairs of value and text, and name the axes."""
        left, _, right, bottom = self.box
        for value, text in y:
            at = self.y(value)
            self.add(f'<path class="gr" d="M{left} {at:.1f}H{right}"/>')
            self.text(left - 6, at + 3.5, text, anchor="end")
        for value, text in x:
            at = self.x(value)
            self.add(f'<path class="tk" d="M{at:.1f} {bottom}v4"/>')
            self.text(at, bottom + 15, text)
        self.add(f'<path class="tk" d="M{left} {bottom}H{right}"/>')
        self.text((left + right) / 2, self.size[1] - 4, names[0], "ax name")
        if names[1]:
            self.text(0, 10, names[1], "ax name", "start")

    def point(self, x: float, y: float, marker: int, tip: str, std: float | None = None) -> str:
        """Return a marker with its tooltip and a bar of one standard deviation."""
        at, height = self.x(x), self.y(y)
        bar = ""
        if std:
            low, high = self.y(y - std), self.y(y + std)
            bar = f'<path class="eb" d="M{at:.1f} {low:.1f}V{high:.1f}m-3 0h6M{at - 3:.1f} {low:.1f}h6"/>'
        use = f'<use class="mk" href="#m{marker}" x="{at:.1f}" y="{height:.1f}" data-t="{escape(tip)}"/>'
        return bar + use

    def render(self) -> Markup:
        """Return the figure."""
        width, height = self.size
        return Markup(
            f'<svg class="fig" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(self.label)}">'
            + "".join(self.parts)
            + "</svg>"
        )


def group(index: int, inner: str, baseline: bool = False) -> str:
    """Return the marks of one method as a group that the legend can hide."""
    colour = "base" if baseline else f"c{index % COLOURS}"
    dash = f" d{index // COLOURS % 3}" if index >= COLOURS and not baseline else ""
    return f'<g class="s {colour}{dash}" data-m="{index}">{inner}</g>'


def scale(values: tuple[float, float], pixels: tuple[float, float]) -> Callable[[float], float]:
    """Return the linear map from a range of values to a range of pixels."""
    (low, high), (start, end) = values, pixels
    factor = (end - start) / (high - low)
    return lambda value: start + (value - low) * factor


def padded(
    values: Iterable[float], margin: float = 0.08, least: float = 1.0, bounds: tuple[float, float] = (0, 100)
) -> tuple[float, float]:
    """Return a range a little wider than the finite values, at least ``least`` wide, inside ``bounds``."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    pad = max((high - low) * margin, (least - (high - low)) / 2)
    low, high = max(low - pad, min(bounds[0], low)), min(high + pad, max(bounds[1], high))
    return (low, high) if high > low else (low - least, high + least)


def ticks(low: float, high: float, most: int = 5) -> list[tuple[float, str]]:
    """Return at most ``most`` + 1 round values of a range with their texts."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [((first + i) * step, f"{(first + i) * step:.{digits}f}") for i in range(count)]


def short(value: float) -> str:
    """Return a number of seconds or parameters in few characters: ``8.2k``, ``1.3M``."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"
