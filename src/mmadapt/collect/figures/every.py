"""All figures that a set of runs can show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmadapt.collect.figures.points import draw_base_new, draw_cost, draw_targets
from mmadapt.collect.figures.reliability import draw_reliability
from mmadapt.collect.figures.shots import draw, draw_panels
from mmadapt.collect.figures.style import save, styled
from mmadapt.collect.results.consistency import count_shots
from mmadapt.collect.results.details import read_reliability
from mmadapt.collect.results.order import METHOD_ORDER, sort_names
from mmadapt.collect.tables.arrange import summarise
from mmadapt.collect.tables.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from mmadapt.collect.results.load import Run

_DRAW = {
    "methods-by-shots": draw,
    "cost": draw_cost,
    "base-new": draw_base_new,
    "cross-dataset": draw_targets,
    "shifts": draw_targets,
}


def write_all(
    runs: Iterable[Run], folder: Path, formats: Sequence[str] = ("png", "svg"), **options: Any
) -> list[Path]:
    """Write every figure that the runs can show; return the paths.

    These are: the metric against shots per data set, of the average, and as panels of one figure; base against
    new; bars of source and targets; accuracy against cost; and reliability where ``details.json`` is there, at
    the largest number of shots. Equal runs give equal files, byte for byte, with one version of Matplotlib.

    Args:
        runs: Results, from `load_results`.
        folder: Where the files go.
        formats: Out of png, svg and pdf.
        options: As in `summarise`, but for the view.
    """
    runs = list(runs)
    options.pop("view", None)
    tables = [*summarise(runs, **options), *summarise(runs, view="cost", **options)]
    paths = write_figures(tables, folder, formats)
    wanted, sets = options.get("methods"), options.get("sets")
    shown = [run for run in runs if not wanted or run.key.method in wanted]
    return [*paths, *_write_reliability(shown, folder, formats, sets or ())]


def write_figures(
    tables: Iterable[Table], folder: Path, formats: Sequence[str] = ("png", "svg")
) -> list[Path]:
    """Write one figure per table, and one of panels for the data sets of a protocol; return the paths."""
    tables = [table for table in tables if any(column != "headline" for _, column in table.cells)]
    methods = sort_names({method for table in tables for method in table.methods}, METHOD_ORDER)
    paths: list[Path] = []
    panels: dict[tuple[str, str, str], list[Table]] = {}
    for table in tables:
        place = str(table.data or next(iter(table.heads), ""))
        name = [place, table.view, table.metric.name, f"{table.shots}shot"]
        if table.view == "methods-by-shots":
            panels.setdefault((table.protocol, table.clip, table.scored), []).append(table)
            name = [place, table.scored, table.metric.name]
        elif table.view == "cost":
            name = [place, "cost", f"{table.shots}shot"]
        with styled():
            figure = _DRAW[table.view](table, methods)
            paths += save(figure, folder, "-".join([table.protocol, table.clip, *name]), formats)
    for (protocol, clip, scored), members in panels.items():
        if len(members) > 1:
            with styled():
                name = [protocol, clip, "panels", scored, members[0].metric.name]
                paths += save(draw_panels(members, methods), folder, "-".join(name), formats)
    return paths


def _write_reliability(
    runs: Sequence[Run], folder: Path, formats: Sequence[str], sets: Sequence[str]
) -> list[Path]:
    most: dict[tuple[str, str, str], int] = {}
    trained = {run.key.method for run in runs if run.key.shots}
    for run in runs:
        cell = run.key.protocol, run.key.clip, run.key.data
        most[cell] = max(run.key.shots, most.get(cell, 0))
    largest = [
        run
        for run in runs
        if run.key.shots == most[run.key.protocol, run.key.clip, run.key.data]
        or run.key.method not in trained
    ]
    methods = sort_names({run.key.method for run in runs}, METHOD_ORDER)
    paths: list[Path] = []
    for (protocol, clip, data, scored), found in read_reliability(largest).items():
        if sets and scored not in sets:
            continue
        shots = most[protocol, clip, data]
        heading = f"{data} · {scored} · {clip} · {protocol} · {count_shots(shots)}"
        with styled():
            figure = draw_reliability(heading, found, methods)
            name = "-".join((protocol, clip, data, scored, "reliability", f"{shots}shot"))
            paths += save(figure, folder, name, formats)
    return paths
