"""What a report shows, as plain data: results arranged by protocol and backbone."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from mmadapt.collect.results.consistency import count_shots
from mmadapt.collect.results.order import METHOD_ORDER, sort_data, sort_names
from mmadapt.collect.tables.arrange import summarise
from mmadapt.collect.tables.numbers import H
from mmadapt.collect.tables.table import AVERAGE, Cell, Cells, Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmadapt.collect.results.load import Run

Kind = Literal["shots", "base_new", "transfer"]
Named = tuple[str, Table]
"""A table and its name in the menu of its section."""

PROTOCOL_ORDER = ("few_shot", "base_to_new", "cross_dataset", "domain_generalization")
CLASSIFIERS = {
    "own": "classifier of the classes it was trained on",
    "names": "trained weights with the names of the scored classes",
    "sliced": "trained logits of the classes that occur",
    "text_only": "text side alone",
}
"""`mmadapt.results.Classifier` in words."""


@dataclass(frozen=True)
class Block:
    """The runs of one protocol and backbone.

    Attributes:
        protocol: Name of the protocol.
        clip: Name of the backbone.
        kind: How the numbers are shown: against shots, base against new, or by target data set.
        runs: Its runs, in the order of the tables.
        accuracy: Tables of top-1; the first is the most general.
        calibration: The same tables of the expected calibration error.
        headline: The one number per method and shots: average top-1, H of averages, or mean over targets.
    """

    protocol: str
    clip: str
    kind: Kind
    runs: tuple[Run, ...]
    accuracy: tuple[Named, ...]
    calibration: tuple[Named, ...]
    headline: Mapping[tuple[str, int], Cell]

    @property
    def methods(self) -> list[str]:
        """Methods in the order of the tables."""
        return sort_names({run.key.method for run in self.runs}, METHOD_ORDER)

    @cached_property
    def top_shots(self) -> int:
        """The largest number of shots."""
        return max(run.key.shots for run in self.runs)

    @cached_property
    def _shotless(self) -> set[str]:
        return set(self.methods) - {run.key.method for run in self.runs if run.key.shots}

    @property
    def classifiers(self) -> str:
        """The classifier rules that occur, in words, with the sets they apply to if there are several."""
        sets: dict[str, set[str]] = defaultdict(set)
        for run in self.runs:
            for name, score in run.result.scores.items():
                sets[score.classifier].add(name)
        parts = []
        for rule, names in sorted(sets.items()):
            listed = ", ".join(sort_data(names)) if len(names) <= 5 else f"{len(names)} data sets"
            where = f" ({listed})" if len(sets) > 1 else ""
            parts.append(f"{CLASSIFIERS.get(rule, rule)}{where}")
        return "; ".join(parts)

    def shots_of(self, method: str) -> int:
        """The largest number of shots of the block, or 0 for a method that has only run without."""
        return 0 if method in self._shotless else self.top_shots


def build(runs: Sequence[Run], *, allow_mixed: bool = False) -> list[Block]:
    """Arrange results in blocks, in the order of `PROTOCOL_ORDER`.

    Raises:
        UserError: If results do not belong together, as in `mmadapt.collect.summarise`.
    """
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.key.clip):
        groups[run.key.protocol, run.key.clip].append(run)
    names = sort_names({protocol for protocol, _ in groups}, PROTOCOL_ORDER)
    return [_block(groups[key], allow_mixed) for name in names for key in groups if key[0] == name]


def _block(runs: list[Run], allow_mixed: bool) -> Block:
    data = sort_data({run.key.data for run in runs})
    methods = sort_names({run.key.method for run in runs}, METHOD_ORDER)
    runs = sorted(
        runs, key=lambda r: (data.index(r.key.data), methods.index(r.key.method), r.key.shots, r.key.seed)
    )
    accuracy, calibration = (_named(runs, metric, allow_mixed) for metric in ("top1", "ece"))
    kind = _KINDS.get(accuracy[0][1].view, "shots")
    headline = _headline(kind, [table for _, table in accuracy])
    return Block(runs[0].key.protocol, runs[0].key.clip, kind, tuple(runs), accuracy, calibration, headline)


def _named(runs: list[Run], metric: str, allow_mixed: bool) -> tuple[Named, ...]:
    """Return the tables with their names: averages first, what has all data sets in its columns last."""
    tables = summarise(runs, metric=metric, allow_mixed=allow_mixed)
    overall: list[Table] = []
    if tables[0].view == "base-new":
        overall = [_h_by_data(table, tables) for table in tables if (table.data, metric) == (AVERAGE, "top1")]
    elif tables[0].view == "methods-by-shots" and any(len(table.data_sets) > 1 for table in tables):
        overall = summarise(runs, metric=metric, view="methods-by-data", allow_mixed=allow_mixed)
    tables += overall
    tables.sort(key=lambda table: (table.data is None, table.data != AVERAGE, -(table.shots or 0)))
    several_shots = len({table.shots for table in tables if table.shots is not None}) > 1
    several_sets = len({table.scored for table in tables if table.view.startswith("methods")}) > 1
    named = []
    for table in tables:
        name = str(table.data)
        if table.heads:
            name = f"From {next(iter(table.heads))}"
        elif table.data == AVERAGE:
            name = f"Average over {len(table.data_sets)} data sets"
        elif table.data is None:
            name = "H of all data sets" if table.view == "base-new" else "All data sets"
        name += f", {table.scored}" if several_sets else ""
        name += f", {count_shots(table.shots)}" if table.shots is not None and several_shots else ""
        named.append((name, table))
    return tuple(named)


def _h_by_data(average: Table, tables: Sequence[Table]) -> Table:
    cells: Cells = {
        (method, str(table.data)): cell
        for table in tables
        if table.shots == average.shots
        for (method, column), cell in table.cells.items()
        if column == H
    }
    columns = (*average.data_sets, AVERAGE)
    return replace(average, data=None, columns=columns, cells=cells, scored="H of base and new")


def _headline(kind: Kind, tables: Sequence[Table]) -> dict[tuple[str, int], Cell]:
    found: dict[tuple[str, int], Cell] = {}
    whole = len(tables[0].data_sets) > 1
    place = AVERAGE if whole else tables[0].data_sets[0]
    for table in tables:
        columns = table.columns if table.data == place else ()
        if kind == "transfer":
            columns = (place,)
        elif kind == "base_new":
            columns = tuple(column for column in columns if column == H)
        for (method, column), cell in table.cells.items():
            if column in columns:
                found.setdefault((method, cell.shots), cell)
    return found


_KINDS: dict[str, Kind] = {"base-new": "base_new", "cross-dataset": "transfer", "shifts": "transfer"}
