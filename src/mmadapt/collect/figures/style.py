"""What all figures share: colours, names beside points, files that are equal byte for byte."""

from __future__ import annotations

import io
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.figure import Figure

from mmadapt.collect.tables.output import write_file
from mmadapt.collect.tables.table import AVERAGE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from mmadapt.collect.tables.table import Table

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A4B1E")
"""After Okabe and Ito: distinct for readers with any kind of colour vision."""
MARKERS = ("o", "s", "^", "D", "v", "p", "<", "h", ">")
BASELINE = "zero_shot"
GREY = "0.35"
FORMATS = ("png", "svg", "pdf")

_STYLE: dict[Any, Any] = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "svg.hashsalt": "mmadapt", "pdf.fonttype": 42,
}  # fmt: skip
_UNDATED = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}


def colour_of(method: str, methods: Sequence[str]) -> str:
    """Return the colour of a method; the baseline is grey."""
    others = [name for name in methods if name != BASELINE]
    return (
        GREY if method == BASELINE or method not in others else COLOURS[others.index(method) % len(COLOURS)]
    )


def marker_of(method: str, methods: Sequence[str]) -> str:
    """Return the marker of a method."""
    others = [name for name in methods if name != BASELINE]
    return "x" if method == BASELINE or method not in others else MARKERS[others.index(method) % len(MARKERS)]


@contextmanager
def styled() -> Iterator[None]:
    """Draw with the style of all figures."""
    with matplotlib.rc_context(_STYLE):
        yield


def save(figure: Figure, folder: Path, name: str, formats: Sequence[str]) -> list[Path]:
    """Write a figure in each format, without dates; return the paths."""
    paths = []
    for suffix in formats:
        stream = io.BytesIO()
        figure.savefig(stream, format=suffix, dpi=200, metadata=_UNDATED[suffix])
        paths.append(folder / f"{name.lower()}.{suffix}")
        write_file(paths[-1], stream.getvalue())
    return paths


def title(figure: Figure, axes: Axes, heading: str, details: str) -> None:
    """Write the heading of a figure, and below it what a reader must know."""
    figure.suptitle(heading, x=0.01, ha="left", fontsize=11, fontweight="bold")
    axes.set_title(details, loc="left", fontsize=7.5, color="0.35")


def place_of(table: Table) -> str:
    """Return what data a table is about, as a heading."""
    if table.data == AVERAGE:
        return f"Average over {len(table.data_sets)} data sets"
    return str(table.data)


def details_of(table: Table, *extra: str) -> str:
    """Return backbone, protocol, what the bars are and the number of seeds."""
    bars = f"mean ± sample std, n = {table.n} seeds" if table.n > 1 else "n = 1 seed"
    return " · ".join([table.clip, f"{table.protocol} v{table.version}", bars, *filter(None, extra)])


def legend(figure: Figure, axes: Axes) -> None:
    """Name the methods beside the axes: what is drawn lies too close together for names of its own."""
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", fontsize=8, frameon=False)
