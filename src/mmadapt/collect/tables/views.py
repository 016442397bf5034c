"""Scored sets in columns: base and new classes, and a source data set with its targets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmadapt.collect.tables.notes import classifiers
from mmadapt.collect.tables.run_group import Block, Cells, average, combine
from mmadapt.collect.tables.table import AVERAGE, Cell
from mmadapt.results import harmonic_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmadapt.collect.tables.table import Table, View
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmadapt.collect.tables.table import Table

H = "H"
_H = "H = 2 · base · new / (base + new) of each seed"
_H_AVERAGE = "base and new are averaged over the data sets per seed, H is of these averages"


def base_new(block: Block, sets: Sequence[str] = ()) -> list[Table]:
    """Return base, new and H by method: a table per shots and data set, and one of the average.

    H of a data set is computed from base and new of each seed. In the average, base and new are averaged over
    the data sets first and H is of these averages, as in the papers: not the mean of the data sets' H. For a
    metric of which less is better there is no H.
    """
    wanted = [name for name in ("base", "new") if name in sets or not sets]
    runs = [run for run in block.runs if any(name in run.result.scores for name in wanted)]
    if not runs or not wanted:
        return []
    block = block.narrow(runs)
    columns = [*wanted, H] if len(wanted) == 2 and block.metric.higher_is_better else wanted
    made = (f"classifier: {classifiers(runs, wanted)}",)
    tables = []
    for shots in block.fixed_shots():
        gaps: dict[tuple[str, int], str] = {}
        means: Cells = {}
        for data in block.data_sets:
            cells: Cells = {}
            for method in block.methods:
                where = method, data, block.at(method, shots)
                cells |= {(method, name): cell for name in wanted if (cell := block.score(where, name))}
                _add_h(cells, method, columns)
            remarks = ((_H, *made)) if H in columns else made
            tables.append(
                block.table(shots, data, columns, cells, wanted, {}, view="base-new", remarks=remarks)
            )
        if len(block.data_sets) < 2:
            continue
        for method in block.methods:
            at = block.at(method, shots)
            for name in wanted:
                mean, gap = average({d: block.score((method, d, at), name) for d in block.data_sets})
                if mean:
                    means[method, name] = mean
                elif gap:
                    gaps[method, at] = gap
            _add_h(means, method, columns)
        remarks = ((_H_AVERAGE, *made)) if H in columns else made
        tables.append(
            block.table(shots, AVERAGE, columns, means, wanted, gaps, view="base-new", remarks=remarks)
        )
    return tables


def _add_h(cells: Cells, method: str, columns: Sequence[str]) -> None:
    base, new = cells.get((method, "base")), cells.get((method, "new"))
    if H in columns and base and new:
        values = {s: harmonic_mean(base.values[s], new.values[s]) for s in base.values if s in new.values}
        if values:
            cells[method, H] = combine((base, new), values, scored=H)


def to_targets(block: Block, sets: Sequence[str] = ()) -> list[Table]:
    """Return source, targets and the targets' average by method: a table per source data set and shots."""
    view: View = "cross-dataset" if block.protocol == "cross_dataset" else "shifts"
    tables = []
    for source in block.data_sets:
        own = block.narrow([run for run in block.runs if run.key.data == source])
        names = list(dict.fromkeys(name for run in own.runs for name in run.result.scores))
        names = [name for name in names if name in sets or not sets]
        targets = [name for name in names if name != source]
        if not names:
            continue
        columns = [*([source] if source in names else []), *targets, *([AVERAGE] if len(targets) > 1 else [])]
        remarks = [f"classifier: {classifiers(own.runs, names)}"]
        if AVERAGE in columns:
            remarks.insert(0, f"{AVERAGE}: mean over the {len(targets)} targets, without the source")
        for shots in own.fixed_shots():
            cells: Cells = {}
            gaps: dict[tuple[str, int], str] = {}
            for method in own.methods:
                where = method, source, own.at(method, shots)
                scored: dict[str, Cell | None] = {name: own.score(where, name, data=name) for name in names}
                cells |= {(method, name): cell for name, cell in scored.items() if cell}
                mean, gap = average({name: scored[name] for name in targets})
                if mean and AVERAGE in columns:
                    cells[method, AVERAGE] = combine([mean], mean.values, scored=AVERAGE)
                elif gap:
                    gaps[method, where[2]] = gap
            tables.append(
                own.table(
                    shots,
                    None,
                    columns,
                    cells,
                    names,
                    gaps,
                    view=view,
                    data_sets=tuple(targets),
                    scored="source, targets",
                    heads={source: f"{source} (source)"},
                    subject=f"trained on {source}, tested on {', '.join(names)}",
                    remarks=tuple(remarks),
                )
            )
    return tables


_Grid = tuple[dict[tuple[str, str, int], Cell], dict[tuple[str, int], str]]


def _cells(block: Block, scored: str) -> _Grid:
    """Return the cells by method, data set and shots, with averages, and why averages are missing."""
    cells = {where: cell for where in block.members if (cell := block.score(where, scored))}
    gaps: dict[tuple[str, int], str] = {}
    if len(block.data_sets) > 1:
        for method in block.methods:
            for shots in block.shots:
                mean, gap = average({data: cells.get((method, data, shots)) for data in block.data_sets})
                if mean:
                    cells[method, AVERAGE, shots] = mean
                elif gap:
                    gaps[method, shots] = gap
    return cells, gaps


def _with_average(names: Sequence[str]) -> list[str]:
    return [*names, AVERAGE] if len(names) > 1 else list(names)


def by_shots(block: Block, scored: str) -> list[Table]:
    """Return one table per data set and, if there are several, one of their average."""
    cells, gaps = _cells(block, scored)
    tables = []
    for name in _with_average(block.data_sets):
        own: Cells = {(m, k): cell for (m, d, k), cell in cells.items() if d == name}
        tables.append(block.table(None, name, block.shots, own, [scored], gaps))
    return tables


def by_data(block: Block, scored: str) -> list[Table]:
    """Return one table per number of shots; the average is the last column."""
    cells, gaps = _cells(block, scored)
    tables = []
    for shots in block.fixed_shots():
        own: Cells = {(m, d): cell for (m, d, k), cell in cells.items() if k == block.at(m, shots)}
        here = {(m, k): why for (m, k), why in gaps.items() if k == block.at(m, shots)}
        columns = _with_average(block.data_sets)
        tables.append(block.table(shots, None, columns, own, [scored], here, view="methods-by-data"))
    return tables
