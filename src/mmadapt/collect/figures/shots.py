"""Figures of a metric against shots."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from mmadapt.collect.figures.style import (
    BASELINE,
    COLOURS,
    GREY,
    MARKERS,
    details_of,
    legend,
    place_of,
    title,
)
from mmadapt.collect.tables.table import AVERAGE, Cell, Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes


def draw(table: Table, methods: Sequence[str] = ()) -> Figure:
    """Draw the mean of every method against shots, with bars of one standard deviation.

    Args:
        table: A table whose columns are shots.
        methods: All methods of a set of figures, so that each keeps its colour and marker.
    """
    figure = Figure(figsize=(5.6, 3.8), layout="constrained")
    axes = figure.add_subplot()
    note = _draw_on(axes, table, methods or table.methods)
    legend(figure, axes)
    metric = table.metric
    axes.set_xlabel("Training images per class (shots)")
    axes.set_ylabel(f"{metric.label} ({metric.measure})")
    title(figure, axes, f"{place_of(table)} · {table.scored}", details_of(table, note))
    return figure


def draw_panels(tables: Sequence[Table], methods: Sequence[str] = ()) -> Figure:
    """Draw the average and every data set as panels of one figure, as the papers do; the average comes first.

    Args:
        tables: Tables of one protocol, backbone and scored set, whose columns are shots.
        methods: All methods of a set of figures, so that each keeps its colour and marker.
    """
    tables = sorted(tables, key=lambda table: table.data != AVERAGE)
    width = min(4, len(tables))
    height = math.ceil(len(tables) / width)
    figure = Figure(figsize=(2.9 * width, 2.4 * height + 0.7), layout="constrained")
    handles: dict[str, Any] = {}
    for index, table in enumerate(tables):
        axes = figure.add_subplot(height, width, index + 1)
        note = _draw_on(axes, table, methods or table.methods)
        heading = f"{place_of(table)}" + (f" ({note})" if note else "")
        axes.set_title(
            heading, loc="left", fontsize=8, fontweight="bold" if table.data == AVERAGE else "normal"
        )
        if index >= len(tables) - width:
            axes.set_xlabel("Training images per class (shots)", fontsize=8)
        handles |= dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    first = tables[0]
    figure.supylabel(f"{first.metric.label} ({first.metric.measure})", fontsize=9)
    figure.suptitle(
        details_of(max(tables, key=lambda table: table.n), first.scored), x=0.01, ha="left", fontsize=8
    )
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=6, fontsize=8, frameon=False
    )
    return figure


def _draw_on(axes: Axes, table: Table, methods: Sequence[str]) -> str:
    """Draw a table; return what is missing."""
    methods = [method for method in methods if method != BASELINE]
    flat = _constant(table)
    shots = [
        int(k)
        for k in table.columns
        if k or not flat or any(m != BASELINE for m, at in table.cells if at == k)
    ]
    shots = shots or [0]
    for method in table.methods:
        cells = {cell.shots: cell for (name, _), cell in table.cells.items() if name == method}
        cells = {k: cell for k, cell in cells.items() if math.isfinite(cell.mean)}
        if not cells:
            continue
        if method == BASELINE and flat:
            last = cells[max(cells)].mean
            axes.axhline(last, color=GREY, linestyle=(0, (5, 3)), linewidth=1.2, label=method, zorder=1)
        else:
            index = methods.index(method) if method in methods else len(methods)
            colour = GREY if method == BASELINE else COLOURS[index % len(COLOURS)]
            _series(axes, method, shots, cells, colour, index)
    _scale(axes, shots)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    return _missing(table, shots, flat)


def _missing(table: Table, shots: Sequence[int], flat: bool) -> str:
    series = [method for method in table.methods if not (flat and method == BASELINE)]
    cells = [table.cells.get((method, k)) for method in series for k in shots]
    missing = sum(cell is None or not math.isfinite(cell.mean) for cell in cells)
    fewer = sum(cell.n < table.n for cell in cells if cell)
    extra = [f"points with fewer: {fewer}"] * bool(fewer) + [f"points missing: {missing}"] * bool(missing)
    return " · ".join(extra)


def _constant(table: Table) -> bool:
    """Whether zero-shot has the same value at all shots and seeds, as displayed."""
    cells = [cell for (method, _), cell in table.cells.items() if method == BASELINE]
    return len({round(value, table.metric.digits) for cell in cells for value in cell.values.values()}) == 1


def _series(
    axes: Axes, method: str, shots: Sequence[int], cells: Mapping[int, Cell], colour: str, index: int
) -> None:
    means = [cells[k].mean if k in cells else math.nan for k in shots]
    spread = [(cells[k].std or 0.0) if k in cells else math.nan for k in shots]
    axes.errorbar(
        shots,
        means,
        yerr=spread,
        label=method,
        color=colour,
        marker=MARKERS[index % len(MARKERS)],
        markersize=4.5,
        markeredgecolor="white",
        markeredgewidth=0.5,
        linewidth=1.4,
        elinewidth=0.9,
        capsize=2,
        linestyle=("-", "--", ":")[index // len(COLOURS) % 3],
    )


def _scale(axes: Axes, shots: Sequence[int]) -> None:
    low, high = min(shots), max(shots)
    if low > 0:
        axes.set_xscale("log", base=2)
        axes.set_xlim(low / 1.2, high * 1.2)
    else:
        axes.set_xscale("symlog", base=2, linthresh=1)
        axes.set_xlim(-0.3, max(high, 1) * 1.2)
    axes.xaxis.set_major_locator(FixedLocator(shots))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([str(k) for k in shots])
