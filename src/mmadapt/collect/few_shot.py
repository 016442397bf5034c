"""Methods by shots and methods by data sets, for one scored set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmadapt.collect.block import Block, Cells, average
from mmadapt.collect.table import AVERAGE, Cell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmadapt.collect.table import Table

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
