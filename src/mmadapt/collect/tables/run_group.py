"""The runs of one protocol and backbone, and the cells that a view takes from them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mmadapt.collect.results.order import METHOD_ORDER, sort_data, sort_names
from mmadapt.collect.tables import notes
from mmadapt.collect.tables.table import AVERAGE, Cell, Metric, Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from mmadapt.collect.results import consistency
    from mmadapt.collect.results.load import Run

Where = tuple[str, str, int]
"""Method, data set and shots."""
Cells = dict[tuple[str, str | int], Cell]


class Block:
    """Runs of one protocol and backbone, grouped over seeds.

    Args:
        protocol: Name of the protocol.
        clip: Name of the backbone.
        metric: What is shown.
        methods: Order of the rows.
        runs: The runs, ordered by seed within a cell.
        mixed: What differs in cells of mixed configurations.
    """

    def __init__(
        self,
        protocol: str,
        clip: str,
        metric: Metric,
        methods: Sequence[str],
        runs: Sequence[Run],
        mixed: Mapping[consistency.Cell, str],
    ) -> None:
        self.protocol, self.clip, self.metric, self.runs = protocol, clip, metric, runs
        self.methods = tuple(methods)
        self.data_sets = tuple(sort_data({run.key.data for run in runs}))
        self.shots = tuple(sorted({run.key.shots for run in runs}))
        self.members: dict[Where, list[Run]] = defaultdict(list)
        self.mixed: dict[Where, str] = {}
        self._shots_of: dict[str, set[int]] = defaultdict(set)
        for run in runs:
            where = run.key.method, run.key.data, run.key.shots
            self.members[where].append(run)
            self._shots_of[run.key.method].add(run.key.shots)
            if differences := mixed.get(run.cell):
                self.mixed[where] = differences

    def narrow(self, runs: Sequence[Run]) -> Block:
        """Return a block of some of the runs, with the same rows."""
        mixed = {(self.protocol, self.clip, d, m, k): why for (m, d, k), why in self.mixed.items()}
        return Block(self.protocol, self.clip, self.metric, self.methods, runs, mixed)

    def fixed_shots(self) -> tuple[int, ...]:
        """Return the shots that get a table of their own: not 0 if methods with nothing else are all it has."""
        others = tuple(k for k in self.shots if k)
        only_zero = all(shots == {0} for shots in self._shots_of.values() if 0 in shots)
        return others if others and only_zero else self.shots

    def at(self, method: str, shots: int) -> int:
        """Return the shots of a method's row in a table of ``shots``: 0 if the method has no other runs."""
        return 0 if self._shots_of[method] == {0} else shots

    def covered(self, shots: int | None, data: str | None = None) -> list[Run]:
        """Return the runs that a table of these shots (all if None) and data set shows."""
        return [
            run
            for run in self.runs
            if (data in (None, AVERAGE) or run.key.data == data)
            and (shots is None or run.key.shots == self.at(run.key.method, shots))
        ]

    def cell(
        self, where: Where, value: Callable[[Run], float | None], scored: str = "", data: str = ""
    ) -> Cell | None:
        """Return a value of the runs over seeds, or None if no run has it.

        Args:
            where: Which runs.
            value: The number of a run, in the unit it is shown in; None if the run does not have it.
            scored: The set that the number is about, or ``H``.
            data: The data set that the number is about, if it is not the one of the runs.
        """
        members = self.members.get(where, [])
        values = {run.key.seed: number for run in members if (number := value(run)) is not None}
        if not values:
            return None
        method, trained, shots = where
        made = {run.result.scores[scored].classifier for run in members if scored in run.result.scores}
        why = self.mixed.get(where, "")
        dirty = any(run.dirty for run in members)
        return Cell(method, data or trained, shots, values, dirty, bool(why), scored, why, frozenset(made))

    def score(self, where: Where, scored: str, data: str = "") -> Cell | None:
        """Return the metric on a scored set over seeds, or None if no run has it."""
        scale, name = self.metric.scale, self.metric.name

        def value(run: Run) -> float | None:
            score = run.result.scores.get(scored)
            return None if score is None else scale * getattr(score, name)

        return self.cell(where, value, scored, data)

    def table(
        self,
        shots: int | None,
        data: str | None,
        columns: Sequence[str | int],
        cells: Cells,
        sets: Sequence[str],
        gaps: Mapping[tuple[str, int], str],
        **more: Any,
    ) -> Table:
        """Return a table of the cells with what its caption and notes must say of the runs below it."""
        covered = self.covered(shots, data)
        rules: dict[str, set[str]] = defaultdict(set)
        tuned: dict[str, set[str]] = defaultdict(set)
        for run in covered:
            rules[str(run.result.selection.get("rule", "not recorded"))].add(run.key.method)
            chosen = run.result.selection.get("tuned")
            if isinstance(chosen, dict) and chosen:
                tuned[run.key.method].update(chosen)
        metric = more.pop("metric", self.metric)
        remarks = [*notes.of_values(cells.values(), metric, several=len(sets) > 1)]
        if sets:
            remarks += [*notes.of_sizes(covered, sets), *notes.of_classifiers(covered, sets)]
        if shots:
            at_zero = [method for method in self.methods if self.at(method, shots) == 0]
            remarks += [f"{', '.join(at_zero)}: 0 shots."] if at_zero else []
        return Table(
            protocol=self.protocol,
            clip=self.clip,
            scored=more.pop("scored", ", ".join(sets)),
            metric=metric,
            data=data,
            shots=shots,
            data_sets=more.pop("data_sets", self.data_sets),
            methods=self.methods,
            columns=tuple(columns),
            cells=cells,
            rules={rule: tuple(sort_names(names, METHOD_ORDER)) for rule, names in sorted(rules.items())},
            version=self.runs[0].result.protocol,
            notes=[*remarks, *notes.of_gaps(gaps if data in (None, AVERAGE) else {})],
            tuned={name: tuple(sorted(tuned[name])) for name in sort_names(tuned, METHOD_ORDER)},
            **more,
        )


def average(cells: Mapping[str, Cell | None]) -> tuple[Cell | None, str]:
    """Return the mean of cells per seed, or None and what is missing: no average over a part of them.

    Args:
        cells: What is averaged, by name; None where it is missing.
    """
    present = [cell for cell in cells.values() if cell]
    if not present:
        return None, ""
    seeds = sorted({seed for cell in present for seed in cell.values})
    lacking = []
    for name, cell in cells.items():
        absent = [str(seed) for seed in seeds if cell and seed not in cell.values]
        if absent:
            lacking.append(f"{name} lacks seed {', '.join(absent)}")
        elif not cell:
            lacking.append(f"{name} is missing")
    if lacking:
        return None, "; ".join(lacking)
    values = {seed: sum(cell.values[seed] for cell in present) / len(present) for seed in seeds}
    return combine(present, values, data=AVERAGE), ""


def combine(cells: Iterable[Cell], values: Mapping[int, float], **changes: Any) -> Cell:
    """Return a cell computed from others: it has the marks that any of them has."""
    cells = list(cells)
    return replace(
        cells[0],
        values=values,
        dirty=any(cell.dirty for cell in cells),
        mixed=any(cell.mixed for cell in cells),
        differences="",
        classifiers=frozenset().union(*(cell.classifiers for cell in cells)),
        **changes,
    )
