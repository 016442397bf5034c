"""What a report shows, as plain data: results arranged by protocol and backbone."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from mmadapt.collect.results.consistency import count_shots, find_mixed, group_cells
from mmadapt.collect.results.order import METHOD_ORDER, sort_data, sort_names
from mmadapt.collect.tables.arrange import summarise
from mmadapt.collect.tables.table import AVERAGE, Cell, Table
from mmadapt.results import harmonic_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

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
    find_mixed(group_cells(runs), allow=allow_mixed)
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.key.protocol, run.key.clip].append(run)
    names = sort_names({protocol for protocol, _ in groups}, PROTOCOL_ORDER)
    return [
        _block(groups[protocol, clip], allow_mixed)
        for protocol in names
        for clip in sorted(clip for name, clip in groups if name == protocol)
    ]


def kind_of(runs: Iterable[Run]) -> Kind:
    """Tell from the scored sets how runs are shown; whatever is unusual is shown against shots."""
    runs = list(runs)
    if all(run.result.scores.keys() == {"base", "new"} for run in runs):
        return "base_new"
    if all(len(run.result.scores) > 1 and run.key.data in run.result.scores for run in runs):
        return "transfer"
    return "shots"


def _block(runs: list[Run], allow_mixed: bool) -> Block:
    kind = kind_of(runs)
    data = {name: place for place, name in enumerate(sort_data({run.key.data for run in runs}))}
    method = {
        name: place for place, name in enumerate(sort_names((r.key.method for r in runs), METHOD_ORDER))
    }
    runs = sorted(runs, key=lambda r: (data[r.key.data], method[r.key.method], r.key.shots, r.key.seed))
    tables = {name: _TABLES[kind](runs, name, allow_mixed) for name in ("top1", "ece")}
    return Block(
        runs[0].key.protocol,
        runs[0].key.clip,
        kind,
        tuple(runs),
        tuple(tables["top1"]),
        tuple(tables["ece"]),
        _headline(kind, tables["top1"]),
    )


def _by_shots(runs: list[Run], metric: str, allow_mixed: bool) -> list[Named]:
    tables = summarise(runs, metric=metric, view="methods-by-shots", allow_mixed=allow_mixed)
    tables.sort(key=lambda table: table.data != AVERAGE)
    several = len({table.scored for table in tables}) > 1
    named = []
    for table in tables:
        place = f"Average over {len(table.data_sets)} data sets" if table.data == AVERAGE else str(table.data)
        named.append((f"{place}, {table.scored}" if several else place, table))
    if any(len(table.data_sets) > 1 for table in tables):
        for table in reversed(
            summarise(runs, metric=metric, view="methods-by-data", allow_mixed=allow_mixed)
        ):
            label = f"All data sets, {count_shots(table.shots or 0)}"
            named.append((f"{label}, {table.scored}" if several else label, table))
    return named


def _base_new(runs: list[Run], metric: str, allow_mixed: bool) -> list[Named]:
    found = {
        (table.scored, table.shots): table
        for table in summarise(runs, metric=metric, view="methods-by-data", allow_mixed=allow_mixed)
    }
    overall: list[Named] = []
    single: list[Named] = []
    shots = sorted({shots for _, shots in found if shots is not None}, reverse=True)
    for k in shots:
        base, new = found["base", k], found["new", k]
        suffix = f", {count_shots(k)}" if len(shots) > 1 else ""
        notes = list(dict.fromkeys([*base.notes, *new.notes]))
        table = replace(base, scored="base, new", notes=notes)
        means = {
            where: _harmonic(cell, new.cells[where])
            for where, cell in base.cells.items()
            if where in new.cells
        }
        parts = {"base": base.cells, "new": new.cells, **({"H": means} if metric == "top1" else {})}
        for data in base.columns:
            cells: dict[tuple[str, str | int], Cell] = {
                (method, part): cell
                for part, members in parts.items()
                for (method, column), cell in members.items()
                if column == data
            }
            name = f"Average over {len(base.data_sets)} data sets" if data == AVERAGE else str(data)
            entry = (f"{name}{suffix}", replace(table, data=str(data), columns=tuple(parts), cells=cells))
            (overall if data == AVERAGE else single).append(entry)
        if metric == "top1" and len(base.data_sets) > 1:
            by_data = replace(table, scored="H of base and new", cells=means)
            overall.append((f"H of all data sets{suffix}", by_data))
    return [*overall, *single]


def _harmonic(base: Cell, new: Cell) -> Cell:
    """Return H by seed; of two averages over data sets this is the H of the averages."""
    values = {
        seed: harmonic_mean(value, new.values[seed])
        for seed, value in base.values.items()
        if seed in new.values
    }
    return replace(
        base,
        values=values,
        dirty=base.dirty or new.dirty,
        mixed=base.mixed or new.mixed,
        classifiers=base.classifiers | new.classifiers,
    )


def _transfer(runs: list[Run], metric: str, allow_mixed: bool) -> list[Named]:
    named: list[Named] = []
    sources = sort_data({run.key.data for run in runs})
    for source in sources:
        members = [run for run in runs if run.key.data == source]
        found = summarise(members, metric=metric, view="methods-by-data", allow_mixed=allow_mixed)
        all_shots = sorted({table.shots for table in found if table.shots is not None}, reverse=True)
        for k in all_shots:
            by_set = {table.scored: table for table in found if table.shots == k}
            asked = dict.fromkeys(name for run in members for name in run.result.scores)
            targets = tuple(name for name in asked if name in by_set and name != source)
            cells: dict[tuple[str, str | int], Cell] = {
                (method, name): replace(cell, data=name)
                for name, table in by_set.items()
                for (method, _), cell in table.cells.items()
            }
            columns = [source, *targets]
            if len(targets) > 1:
                columns.append(AVERAGE)
                for method in by_set[source].methods:
                    if cell := average([cells.get((method, name)) for name in targets]):
                        cells[method, AVERAGE] = cell
            table = replace(
                by_set[source],
                data=None,
                data_sets=targets,
                columns=tuple(columns),
                cells=cells,
                scored=f"{source} (source) and {len(targets)} {'target' if len(targets) == 1 else 'targets'}",
                notes=list(dict.fromkeys(note for part in by_set.values() for note in part.notes)),
            )
            suffix = f", {count_shots(k)}" if len(all_shots) > 1 else ""
            named.append((f"From {source}{suffix}", table))
    return named


def average(parts: Sequence[Cell | None]) -> Cell | None:
    """Return the mean over cells by seed, or None unless all cells are there with the same seeds."""
    cells = [cell for cell in parts if cell]
    if not cells or len(cells) < len(parts) or any(c.values.keys() != cells[0].values.keys() for c in cells):
        return None
    values = {seed: sum(cell.values[seed] for cell in cells) / len(cells) for seed in cells[0].values}
    dirty, mixed = any(cell.dirty for cell in cells), any(cell.mixed for cell in cells)
    return replace(cells[0], data=AVERAGE, values=values, dirty=dirty, mixed=mixed)


def _headline(kind: Kind, tables: Sequence[Named]) -> dict[tuple[str, int], Cell]:
    found: dict[tuple[str, int], Cell] = {}
    columns: tuple[str | int, ...]
    whole = len(tables[0][1].data_sets) > 1
    for _, table in tables:
        if kind == "transfer":
            columns = (AVERAGE,) if whole else table.data_sets
        else:
            columns = () if table.data != (AVERAGE if whole else table.data_sets[0]) else table.columns
            columns = tuple(c for c in columns if c == "H") if kind == "base_new" else columns
        for (method, column), cell in table.cells.items():
            if column in columns:
                found.setdefault((method, cell.shots), cell)
    return found


_TABLES = {"shots": _by_shots, "base_new": _base_new, "transfer": _transfer}
