"""Figures of a metric against shots."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from mmadapt.collect.output import write_file
from mmadapt.collect.table import AVERAGE, Cell, Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A4B1E")
"""After Okabe and Ito: distinct for readers with any kind of colour vision."""
MARKERS = ("o", "s", "^", "D", "v", "p", "<", "h", ">")
BASELINE = "zero_shot"
FORMATS = ("png", "svg", "pdf")

_STYLE: dict[Any, Any] = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "svg.hashsalt": "mmadapt", "pdf.fonttype": 42,
}  # fmt: skip
_UNDATED = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}


def write_figures(
    tables: Iterable[Table], folder: Path, formats: Sequence[str] = ("png", "svg")
) -> list[Path]:
    """Write one figure per table with methods in rows and shots in columns; return the paths.

    Equal tables give equal files, byte for byte, with one version of Matplotlib.
    """
    tables = [table for table in tables if table.data is not None and table.cells]
    methods = sorted({method for table in tables for method in table.methods})
    paths = []
    for table in tables:
        with matplotlib.rc_context(_STYLE):
            figure = draw(table, methods)
            for suffix in formats:
                stream = io.BytesIO()
                figure.savefig(stream, format=suffix, dpi=200, metadata=_UNDATED[suffix])
                name = "-".join(
                    (table.protocol, table.clip, str(table.data), table.scored, table.metric.name)
                )
                paths.append(folder / f"{name.lower()}.{suffix}")
                write_file(paths[-1], stream.getvalue())
    return paths


def draw(table: Table, methods: Sequence[str] = ()) -> Figure:
    """Draw the mean of every method against shots, with bars of one standard deviation.

    Args:
        table: A table whose columns are shots.
        methods: All methods of a set of figures, so that each keeps its colour and marker.
    """
    methods = [method for method in methods or table.methods if method != BASELINE]
    figure = Figure(figsize=(5.6, 3.8), layout="constrained")
    axes = figure.add_subplot()
    flat = _constant(table)
    shots = [
        int(k)
        for k in table.columns
        if k or not flat or any(m != BASELINE for m, at in table.cells if at == k)
    ]
    shots = shots or [0]
    ends: dict[str, tuple[float, str, str]] = {}
    for method in table.methods:
        cells = {cell.shots: cell for (name, _), cell in table.cells.items() if name == method}
        cells = {k: cell for k, cell in cells.items() if math.isfinite(cell.mean)}
        if not cells:
            continue
        last = cells[max(cells)].mean
        if method == BASELINE and flat:
            axes.axhline(last, color="0.35", linestyle=(0, (5, 3)), linewidth=1.2, label=method, zorder=1)
            ends[method] = last, "0.35", "_"
        else:
            index = methods.index(method) if method in methods else len(methods)
            colour = "0.35" if method == BASELINE else COLOURS[index % len(COLOURS)]
            _series(axes, method, shots, cells, colour, index)
            ends[method] = last, colour, MARKERS[index % len(MARKERS)]
    _scale(axes, shots)
    _label_ends(axes, figure, ends)
    metric = table.metric
    axes.set_xlabel("Training images per class (shots)")
    axes.set_ylabel(f"{metric.label} ({metric.unit}) {metric.arrow}")
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    place = f"Average over {len(table.data_sets)} data sets" if table.data == AVERAGE else str(table.data)
    figure.suptitle(f"{place} · {table.scored}", x=0.01, ha="left", fontsize=11, fontweight="bold")
    axes.set_title(_subtitle(table, shots, flat), loc="left", fontsize=7.5, color="0.35")
    return figure


def _subtitle(table: Table, shots: Sequence[int], flat: bool) -> str:
    bars = f"mean ± sample std, n = {table.n} seeds" if table.n > 1 else "n = 1 seed"
    series = [method for method in table.methods if not (flat and method == BASELINE)]
    cells = [table.cells.get((method, k)) for method in series for k in shots]
    missing = sum(cell is None or not math.isfinite(cell.mean) for cell in cells)
    fewer = sum(cell.n < table.n for cell in cells if cell)
    extra = [f"points with fewer: {fewer}"] * bool(fewer) + [f"points missing: {missing}"] * bool(missing)
    return " · ".join([table.clip, f"{table.protocol} v{table.version}", bars, *extra])


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
        shots, means, yerr=spread, label=method, color=colour, marker=MARKERS[index % len(MARKERS)],
        markersize=4.5,
        markeredgecolor="white", markeredgewidth=0.5, linewidth=1.4, elinewidth=0.9, capsize=2,
        linestyle=("-", "--", ":")[index // len(COLOURS) % 3],
    )  # fmt: skip


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


def _label_ends(axes: Axes, figure: Figure, ends: Mapping[str, tuple[float, str, str]]) -> None:
    """Write each method's name right of its last point, moved apart where names would overlap."""
    low, high = axes.get_ylim()
    gap = 9.5 / 72 / (0.72 * figure.get_figheight()) * (high - low)
    order = sorted(ends, key=lambda method: ends[method][0])
    blocks: list[tuple[float, int]] = []
    for index, method in enumerate(order):
        centre, size = ends[method][0] - index * gap, 1
        while blocks and blocks[-1][0] > centre:
            above, count = blocks.pop()
            centre, size = (above * count + centre * size) / (count + size), count + size
        blocks.append((centre, size))
    heights = [centre for centre, size in blocks for _ in range(size)]
    for index, (method, height) in enumerate(zip(order, heights, strict=True)):
        _, colour, marker = ends[method]
        at = (1.0, height + index * gap)
        axes.annotate(
            method, at, xytext=(14, 0), color=colour, fontsize=8, xycoords=("axes fraction", "data"),
            textcoords="offset points", va="center", annotation_clip=False,
        )  # fmt: skip
        axes.plot(
            1.025, at[1], marker=marker, color=colour, markersize=5, clip_on=False,
            transform=axes.get_yaxis_transform(),
        )  # fmt: skip
    axes.set_ylim(low, high)
