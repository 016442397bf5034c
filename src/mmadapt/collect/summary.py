"""Average results over seeds and arrange them in tables."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from mmadapt.collect import consistency, notes
from mmadapt.collect.load import Run, require_known
from mmadapt.collect.table import (
    AVERAGE,
    METHOD_ORDER,
    METRICS,
    SET_ORDER,
    Cell,
    Metric,
    Table,
    View,
    sort_data,
    sort_names,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


def summarise(
    runs: Iterable[Run],
    *,
    metric: str = "top1",
    view: View = "methods-by-shots",
    sets: Sequence[str] = (),
    methods: Sequence[str] = (),
    allow_mixed: bool = False,
) -> list[Table]:
    """Average runs over seeds and arrange them in tables, one per protocol, backbone and scored set.

    Args:
        runs: Results, from `load_results`.
        metric: One of `METRICS`.
        view: Columns are shots (one table per data set and an average), or data sets (one per shots).
        sets: Scored sets to show; all by default.
        methods: Order of the rows; those not named are left out. All by default.
        allow_mixed: Accept results of different configurations in a cell, and say so in a note.

    Raises:
        UserError: If results do not belong in one table, or a requested set or method has no result.
    """
    groups = consistency.group_cells(runs)
    mixed = consistency.find_mixed(groups, allow=allow_mixed)
    found = sort_names(
        {name for members in groups.values() for run in members for name in run.result.scores}, SET_ORDER
    )
    for name in sets:
        require_known("scored set", name, found)
    present = sort_names({method for _, _, _, method, _ in groups}, METHOD_ORDER)
    for name in methods:
        require_known("method", name, present)
    tables: list[Table] = []
    for protocol, clip in sorted({cell[:2] for cell in groups}):
        members = [run for cell, seeds in groups.items() if cell[:2] == (protocol, clip) for run in seeds]
        members = [run for run in members if not methods or run.key.method in methods]
        rows = [name for name in methods or present if any(run.key.method == name for run in members)]
        for scored in sets or found:
            scoring = [run for run in members if scored in run.result.scores]
            if scoring:
                block = _Block(protocol, clip, scored, METRICS[metric], rows, scoring, mixed)
                tables += block.by_shots() if view == "methods-by-shots" else block.by_data()
    return tables


_Cells = dict[tuple[str, str | int], Cell]


class _Block:
    """The cells of one protocol, backbone and scored set, and their averages over data sets."""

    def __init__(
        self,
        protocol: str,
        clip: str,
        scored: str,
        metric: Metric,
        methods: Sequence[str],
        runs: Sequence[Run],
        mixed: Mapping[consistency.Cell, str],
    ) -> None:
        self.protocol, self.clip, self.scored, self.metric, self.runs = protocol, clip, scored, metric, runs
        self.methods = tuple(methods)
        self.data_sets = tuple(sort_data({run.key.data for run in runs}))
        self.shots = tuple(sorted({run.key.shots for run in runs}))
        self.cells: dict[tuple[str, str, int], Cell] = {}
        self.mixed: dict[tuple[str, str, int], str] = {}
        self.gaps: dict[tuple[str, int], str] = {}
        members: dict[consistency.Cell, list[Run]] = defaultdict(list)
        for run in runs:
            members[run.cell].append(run)
        for cell, seeds in members.items():
            where = cell[3], cell[2], cell[4]
            scores = {run.key.seed: run.result.scores[scored] for run in seeds}
            values = {seed: metric.scale * getattr(score, metric.name) for seed, score in scores.items()}
            self.cells[where] = Cell(*where, values, any(run.dirty for run in seeds), cell in mixed)
            if cell in mixed:
                self.mixed[where] = mixed[cell]
        if len(self.data_sets) > 1:
            for method in self.methods:
                for shots in self.shots:
                    self._average(method, shots)

    def _average(self, method: str, shots: int) -> None:
        parts = {data: self.cells.get((method, data, shots)) for data in self.data_sets}
        present = [cell for cell in parts.values() if cell]
        seeds = sorted({seed for cell in present for seed in cell.values})
        lacking = []
        for data, cell in parts.items():
            absent = [str(seed) for seed in seeds if cell and seed not in cell.values]
            if absent:
                lacking.append(f"{data} lacks seed {', '.join(absent)}")
            elif not cell:
                lacking.append(f"{data} is missing")
        if lacking and present:
            self.gaps[method, shots] = "; ".join(lacking)
        elif present:
            values = {seed: sum(cell.values[seed] for cell in present) / len(present) for seed in seeds}
            dirty, mixed = any(cell.dirty for cell in present), any(cell.mixed for cell in present)
            self.cells[method, AVERAGE, shots] = Cell(method, AVERAGE, shots, values, dirty, mixed)

    def by_shots(self) -> list[Table]:
        """Return one table per data set and, if there are several, one of their average."""
        names = [*self.data_sets, AVERAGE] if len(self.data_sets) > 1 else self.data_sets
        return [
            self._table(
                name, None, self.shots, {(m, k): c for (m, d, k), c in self.cells.items() if d == name}
            )
            for name in names
        ]

    def by_data(self) -> list[Table]:
        """Return one table per number of shots; the average is the last column."""
        tables = []
        for shots in self.shots:
            cells: _Cells = {(m, d): c for (m, d, k), c in self.cells.items() if k == shots}
            columns = [*self.data_sets, AVERAGE] if len(self.data_sets) > 1 else self.data_sets
            tables.append(self._table(None, shots, columns, cells))
        return tables

    def _table(
        self, data: str | None, shots: int | None, columns: Sequence[str | int], cells: _Cells
    ) -> Table:
        covered = [
            run
            for run in self.runs
            if (data in (None, AVERAGE) or run.key.data == data) and (shots is None or run.key.shots == shots)
        ]
        gaps = {key: reason for key, reason in self.gaps.items() if shots in (None, key[1])}
        rules: dict[str, set[str]] = defaultdict(set)
        for run in covered:
            rules[str(run.result.selection.get("rule", "not recorded"))].add(run.key.method)
        return Table(
            protocol=self.protocol,
            clip=self.clip,
            scored=self.scored,
            metric=self.metric,
            data=data,
            shots=shots,
            data_sets=self.data_sets,
            methods=self.methods,
            columns=tuple(columns),
            cells=cells,
            rules={rule: tuple(sort_names(names, METHOD_ORDER)) for rule, names in sorted(rules.items())},
            version=covered[0].result.protocol,
            notes=[
                *notes.of_values(cells.values(), self.metric, self.mixed),
                *notes.of_sizes(covered, self.scored),
                *notes.of_gaps(gaps if data in (None, AVERAGE) else {}),
            ],
        )
