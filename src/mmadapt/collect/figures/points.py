"""Figures with a point or a bar per method: base against new classes, shifts, cost against accuracy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, NullFormatter

from mmadapt.collect.figures.style import colour_of, details_of, legend, marker_of, place_of, title
from mmadapt.collect.results.consistency import count_shots
from mmadapt.collect.tables.table import AVERAGE, Cell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from mmadapt.collect.tables.table import Table


def draw_base_new(table: Table, methods: Sequence[str] = ()) -> Figure:
    """Draw accuracy on new classes against base classes, with bars of one standard deviation and curves of equal H."""
    figure = Figure(figsize=(6.0, 4.2), layout="constrained")
    axes = figure.add_subplot()
    pairs = {m: (table.cells.get((m, "base")), table.cells.get((m, "new"))) for m in table.methods}
    drawn = _points(axes, pairs, methods or table.methods)
    if drawn and table.metric.higher_is_better:
        _curves_of_h(axes)
    axes.set_xlabel(f"Base classes: {table.metric.label.lower()} ({table.metric.unit})")
    axes.set_ylabel(f"New classes: {table.metric.label.lower()} ({table.metric.unit})")
    shots = count_shots(table.shots or 0)
    legend(figure, axes)
    title(figure, axes, f"{place_of(table)} · {shots}", details_of(table, _absent(len(pairs) - drawn)))
    return figure


def draw_targets(table: Table, methods: Sequence[str] = ()) -> Figure:
    """Draw a group of bars per column (source, targets, average): a bar per method, with its standard deviation."""
    methods = methods or table.methods
    width = 0.8 / len(table.methods)
    figure = Figure(
        figsize=(max(5.6, 0.55 * len(table.columns) * len(table.methods) ** 0.5 + 2), 3.8),
        layout="constrained",
    )
    axes = figure.add_subplot()
    missing, means = 0, []
    for index, method in enumerate(table.methods):
        cells = [table.cells.get((method, column)) for column in table.columns]
        shown = [(i, cell) for i, cell in enumerate(cells) if cell and math.isfinite(cell.mean)]
        missing += len(cells) - len(shown)
        means += [cell.mean for _, cell in shown]
        axes.bar(
            [i - 0.4 + width * (index + 0.5) for i, _ in shown],
            [cell.mean for _, cell in shown],
            width,
            yerr=[cell.std or 0.0 for _, cell in shown],
            label=method,
            color=colour_of(method, methods),
            error_kw={"elinewidth": 0.9, "capsize": 1.5},
        )
    axes.set_xticks(
        range(len(table.columns)),
        [table.heads.get(c, str(c)) for c in table.columns],
        rotation=25,
        ha="right",
    )
    for label, column in zip(axes.get_xticklabels(), table.columns, strict=True):
        label.set_fontweight("bold" if column == AVERAGE else "normal")
    axes.set_ylabel(f"{table.metric.label} ({table.metric.measure})")
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.legend(fontsize=8, frameon=False, ncols=4, loc="upper left", bbox_to_anchor=(0, -0.22))
    source = table.columns[0] if table.heads else ""
    title(
        figure,
        axes,
        f"Trained on {source} · {count_shots(table.shots or 0)}",
        details_of(table, _absent(missing)),
    )
    return figure


def draw_cost(table: Table, methods: Sequence[str] = ()) -> Figure:
    """Draw the headline accuracy against trainable parameters and against the seconds of all phases."""
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    missing = 0
    for index, column in enumerate(("trainable_params", "total_seconds")):
        axes = figure.add_subplot(1, 2, index + 1)
        pairs = {m: (table.cells.get((m, column)), table.cells.get((m, "headline"))) for m in table.methods}
        missing = max(missing, len(pairs) - _points(axes, pairs, methods or table.methods, log=column))
        metric = table.metric_of(column)
        axes.set_xlabel(f"{metric.label} ({metric.measure})")
        axes.set_ylabel(f"{table.metric.label} ({table.metric.measure})")
    first = figure.axes[0]
    legend(figure, first)
    title(
        figure,
        first,
        f"{place_of(table)} · {count_shots(table.shots or 0)}",
        details_of(table, _absent(missing)),
    )
    return figure


def _points(
    axes: Axes, pairs: dict[str, tuple[Cell | None, Cell | None]], methods: Sequence[str], log: str = ""
) -> int:
    """Draw a point with bars and its name per method that has both numbers; return how many."""
    drawn = 0
    for method, (x, y) in pairs.items():
        if x is None or y is None or not math.isfinite(x.mean + y.mean):
            continue
        drawn += 1
        colour = colour_of(method, methods)
        axes.errorbar(
            x.mean,
            y.mean,
            xerr=x.std or 0.0,
            yerr=y.std or 0.0,
            color=colour,
            label=method,
            markersize=6,
            marker=marker_of(method, methods),
            elinewidth=0.9,
            capsize=2,
            linestyle="none",
        )
    if log == "trainable_params" and drawn:
        axes.set_xscale("symlog", linthresh=100)
    elif log and drawn:
        axes.set_xscale("log")
    if log:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(color="0.92", linewidth=0.8)
    axes.margins(0.15)
    return drawn


def _curves_of_h(axes: Axes) -> None:
    """Draw dotted curves on which the harmonic mean is a round number."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    ends = [2 * b * n / (b + n) for b, n in ((max(left, 1e-6), max(low, 1e-6)), (right, high))]
    step = next((s for s in (0.5, 1, 2, 5, 10, 20) if (ends[1] - ends[0]) / s <= 8), 50)
    base = np.linspace(max(left, 1e-6), right, 200)
    for h in np.arange(math.ceil(ends[0] / step) * step, ends[1], step):
        with np.errstate(divide="ignore"):
            new = np.where(2 * base > h, h * base / (2 * base - h), np.nan)
        new = np.where((new >= low) & (new <= high), new, np.nan)
        if np.isfinite(new).any():
            axes.plot(base, new, linestyle=":", color="0.75", linewidth=0.9, zorder=0)
            last = np.flatnonzero(np.isfinite(new))[-1]
            axes.annotate(
                f"H {h:g}", (base[last], new[last]), fontsize=6.5, color="0.55", ha="right", va="bottom"
            )
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)


def _absent(count: int) -> str:
    return f"not shown, incomplete: {count}" if count else ""
