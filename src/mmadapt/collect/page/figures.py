"""The figures of the report: curves, scatters, bars, reliability diagrams."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING

from markupsafe import escape

from mmadapt.collect.page.svg import MARKERS, Frame, group, padded, short, ticks
from mmadapt.collect.results.consistency import count_shots
from mmadapt.collect.tables.notes import marks_of
from mmadapt.collect.tables.render import display

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from markupsafe import Markup

    from mmadapt.collect.results.details import Bins
    from mmadapt.collect.tables.table import Cell, Table

BASELINE = "zero_shot"


def curves(table: Table, index: Mapping[str, int]) -> Markup | None:
    """Draw the mean against shots with bars of one standard deviation; None without a finite value.

    A zero-shot baseline that is the same everywhere is a dashed line across, without markers.
    """
    cells = {key: cell for key, cell in table.cells.items() if math.isfinite(cell.mean)}
    flat = {round(cell.mean, table.metric.digits) for (m, _), cell in cells.items() if m == BASELINE}
    across = len(flat) == 1
    shots = sorted({cell.shots for (m, _), cell in cells.items() if m != BASELINE or not across})
    shots = shots or sorted({cell.shots for cell in cells.values()})
    if not cells:
        return None
    place = _places(shots)
    low, high = padded(v for cell in cells.values() for v in _spread(cell))
    edge = 0.35 if len(shots) > 1 else 1.0
    x = (place[shots[0]] - edge, place[shots[-1]] + edge)
    frame = Frame(f"{table.metric.label} against shots: {table.data}, {table.scored}", x, (low, high))
    frame.axes(
        [(place[k], str(k)) for k in shots],
        ticks(low, high),
        ("shots per class", f"{table.metric.name} ({table.metric.unit})"),
    )
    for method in table.methods:
        own = sorted((c for (m, _), c in cells.items() if m == method), key=lambda cell: cell.shots)
        if not own:
            continue
        if method == BASELINE and across:
            inner = frame.line([(x[0], own[0].mean), (x[1], own[0].mean)], "ln flat")
        else:
            points = [(place[cell.shots], cell) for cell in own]
            inner = frame.line([(at, cell.mean) for at, cell in points]) if len(points) > 1 else ""
            for at, cell in points:
                tip = f"{method}, {count_shots(cell.shots)}: {_value(cell, table)}"
                inner += frame.point(at, cell.mean, _marker(index[method]), tip, cell.std)
        frame.add(group(index[method], inner, method == BASELINE))
    return frame.render()


def base_new(table: Table, index: Mapping[str, int]) -> Markup | None:
    """Draw new against base accuracy over lines of equal H; None without a pair of finite values."""
    pairs = {}
    for method in table.methods:
        base, new, h = (table.cells.get((method, part)) for part in ("base", "new", "H"))
        if base and new and h and math.isfinite(base.mean) and math.isfinite(new.mean):
            pairs[method] = base, new, h
    if not pairs:
        return None
    x, y = (
        padded((v for cells in pairs.values() for v in _spread(cells[side])), 0.12, 4.0) for side in (0, 1)
    )
    frame = Frame(f"New against base accuracy: {table.data}", x, y, (340, 304))
    frame.axes(ticks(*x), ticks(*y), ("base top1 (%)", "new top1 (%)"))
    for level, text in ticks(*_h_range(x, y), most=6):
        points = _iso(level, x, y)
        if len(points) > 5:
            frame.path(points, "iso")
            at = points[-1]  # the lower end: good methods are up and to the right
            frame.text(frame.x(at[0]), frame.y(at[1]) - 4, f"H {text}", "ax iso-t", "end")
    for method, (base, new, h) in pairs.items():
        tip = f"{method}: base {_value(base, table)}, new {_value(new, table)}, H {_value(h, table)}"
        left, right = (frame.x(base.mean + sign * (base.std or 0)) for sign in (-1, 1))
        bar = f'<path class="eb" d="M{left:.1f} {frame.y(new.mean):.1f}H{right:.1f}"/>' if base.std else ""
        point = frame.point(base.mean, new.mean, _marker(index[method]), tip, new.std)
        frame.add(group(index[method], bar + point, method == BASELINE))
    return frame.render()


def _h_range(x: tuple[float, float], y: tuple[float, float]) -> tuple[float, float]:
    low, high = (2 * a * b / (a + b) if a + b else 0.0 for a, b in zip(x, y, strict=True))
    return low, max(high, low + 1e-6)


def _iso(level: float, x: tuple[float, float], y: tuple[float, float]) -> list[tuple[float, float]]:
    """Return the points inside the frame whose harmonic mean is ``level``."""
    steps = [x[0] + (x[1] - x[0]) * i / 48 for i in range(49)]
    points = [(base, level * base / (2 * base - level)) for base in steps if 2 * base > level]
    return [(base, new) for base, new in points if y[0] <= new <= y[1]]


def cost(
    points: Mapping[tuple[str, int], tuple[float, Cell]],
    table: Table,
    index: Mapping[str, int],
    names: tuple[str, str],
) -> Markup | None:
    """Draw the headline number against a cost on a logarithmic axis, with zero set apart on the left.

    Args:
        points: Mean cost and headline by method and shots.
        table: A table that tells how the headline is written.
        index: Number of each method.
        names: Names of the axes.
    """
    points = {key: (c, cell) for key, (c, cell) in points.items() if math.isfinite(cell.mean)}
    positive = [math.log10(c) for c, _ in points.values() if c > 0]
    if not points or not positive:
        return None
    low, high = math.floor(min(positive)), max(math.ceil(max(positive)), math.floor(min(positive)) + 1)
    zero = any(c == 0 for c, _ in points.values())
    y = padded(cell.mean for _, cell in points.values())
    frame = Frame(f"{names[1]} against {names[0]}", (low - 0.2 - zero, high + 0.2), y, (340, 260))
    step = math.ceil((high - low) / 6)
    marks = [(float(p), short(10.0**p)) for p in range(low, high + 1, step)]
    frame.axes([(low - 1.0, "0"), *marks] if zero else marks, ticks(*y), names)
    by_method: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
    for (method, shots), (value, cell) in sorted(points.items(), key=lambda item: item[0][1]):
        at = math.log10(value) if value > 0 else low - 1.0
        tip = f"{method}, {count_shots(shots)}: {_value(cell, table)}, {short(value)}"
        by_method[method].append((at, cell.mean, tip))
    for method, own in by_method.items():
        inner = frame.line([(a, b) for a, b, _ in own], "ln thin") if len(own) > 1 else ""
        inner += "".join(frame.point(a, b, _marker(index[method]), tip) for a, b, tip in own)
        frame.add(group(index[method], inner, method == BASELINE))
    return frame.render()


def bars(table: Table, column: str | int, index: Mapping[str, int]) -> Markup | None:
    """Draw one column of a table as horizontal bars from zero with whiskers of one standard deviation."""
    cells = [(m, table.cells[m, column]) for m in table.methods if (m, column) in table.cells]
    cells = [(method, cell) for method, cell in cells if math.isfinite(cell.mean)]
    if not cells:
        return None
    size = (340, 30 * len(cells) + 8)
    frame = Frame(f"{table.metric.label} on {column}", (0, 100), (0, 1), size, left=4, top=0)
    for row, (method, cell) in enumerate(cells):
        y, end = 30 * row + 16, frame.x(cell.mean)
        text = _value(cell, table).split(" (")[0]
        inner = f'<text class="ax lb" x="4" y="{y}">{escape(method)}</text>'
        inner += f'<text class="ax lb" x="{size[0] - 8}" y="{y}" text-anchor="end">{text}</text>'
        inner += f'<path class="track" d="M4 {y + 9}H{size[0] - 8}"/>'
        tip = f"{method}, {column}: {_value(cell, table)}"
        inner += f'<path class="bar" d="M4 {y + 9}H{end:.1f}" data-t="{escape(tip)}"/>'
        if cell.std:
            left, right = frame.x(cell.mean - cell.std), frame.x(cell.mean + cell.std)
            inner += f'<path class="wh" d="M{left:.1f} {y + 9}H{right:.1f}"/>'
        frame.add(group(index[method], inner, method == BASELINE))
    return frame.render()


def reliability(bins: Bins, method: str, index: Mapping[str, int], label: str) -> Markup:
    """Draw accuracy against confidence in 15 bins; empty bins are left out."""
    frame = Frame(f"Reliability of {method}: {label}", (0, 1), (0, 1), (184, 184), left=26, top=8)
    frame.axes([(v, f"{v:g}") for v in (0, 0.5, 1)], [(v, f"{v:g}") for v in (0, 0.5, 1)], ("confidence", ""))
    total, width = sum(bins.count), 1 / len(bins.count)
    inner = ""
    for i, (count, confidence, accuracy) in enumerate(
        zip(bins.count, bins.confidence, bins.accuracy, strict=True)
    ):
        if not count:
            continue
        left, right, bottom = frame.x(i * width) + 0.75, frame.x((i + 1) * width) - 0.75, frame.y(0)
        tip = f"confidence {confidence:.2f}, accuracy {accuracy:.2f}, {count} images ({count / total:.0%})"
        top = frame.y(accuracy)
        inner += (
            f'<path class="rb" d="M{left:.1f} {bottom:.1f}V{top:.1f}H{right:.1f}V{bottom:.1f}z"'
            f' data-t="{escape(tip)}"/>'
        )
        inner += f'<path class="top" d="M{left:.1f} {top:.1f}H{right:.1f}"/>'
    frame.path([(0, 0), (1, 1)], "iso")
    frame.add(group(index[method], inner, method == BASELINE))
    return frame.render()


def _places(shots: Sequence[int]) -> dict[int, float]:
    """Return log2 of the shots, with 0 shots one step left of the smallest other number."""
    least = min((math.log2(k) for k in shots if k > 0), default=1.0)
    return {k: math.log2(k) if k > 0 else least - 1 for k in shots}


def _spread(cell: Cell) -> tuple[float, float]:
    return cell.mean - (cell.std or 0), cell.mean + (cell.std or 0)


def _marker(index: int) -> int:
    return index % len(MARKERS)


def _value(cell: Cell, table: Table) -> str:
    text, marks = display(cell, table.metric, table.n), marks_of(cell)
    return f"{text} {table.metric.unit}{marks} (n = {cell.n})"
