"""Arrange the numbers of runs in tables."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from mmadapt.collect.results import consistency
from mmadapt.collect.results.load import require_known
from mmadapt.collect.results.order import METHOD_ORDER, SET_ORDER, sort_data, sort_names
from mmadapt.collect.tables import notes
from mmadapt.collect.tables.numbers import TARGET, H, Place, add_averages, add_h, costs, scores
from mmadapt.collect.tables.table import AVERAGE, COSTS, HEADLINE, METRICS, Metric, Table
from mmadapt.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mmadapt.collect.results.consistency import Mixed
    from mmadapt.collect.results.load import Run
    from mmadapt.collect.tables.table import Cells

    Gaps = dict[tuple[str, int], str]


@dataclass(frozen=True)
class View:
    """How numbers are arranged: a table for each value of ``about``, methods in rows, ``columns`` in columns.

    ``protocol`` is the only one that the view suits, and whose view it is by default.
    """

    about: tuple[str, ...]
    columns: str
    meaning: str
    protocol: str = ""


VIEWS = {
    "methods-by-shots": View(("data",), "shots", "a table per data set, shots in columns"),
    "methods-by-data": View(("shots",), "data", "a table per number of shots, data sets in columns"),
    "base-new": View(
        ("shots", "data"), "what", "base and new classes and their harmonic mean H", "base_to_new"
    ),
    "cross-dataset": View(
        ("shots",), "data", "the source data set, the targets and the targets' average", "cross_dataset"
    ),
    "shifts": View(("shots",), "data", "the same under domain shift", "domain_generalization"),
    "cost": View(("shots",), "what", "parameters, seconds and memory beside the accuracy"),
}
_BY_PROTOCOL = {view.protocol: name for name, view in VIEWS.items() if view.protocol}
_H = "H = 2 · base · new / (base + new) of each seed"
_H_AVERAGE = "base and new are averaged over the data sets per seed, H is of these averages"
_COST = (
    "total: all recorded phases; a run that finds its features in the store does not encode them again",
    "peak memory: of the GPU, or else of the whole process",
)


def summarise(
    runs: Iterable[Run],
    *,
    metric: str = "top1",
    view: str | None = None,
    fallback: str = "methods-by-shots",
    sets: Sequence[str] = (),
    methods: Sequence[str] = (),
    allow_mixed: bool = False,
) -> list[Table]:
    """Average runs over seeds and arrange them in tables, protocol by protocol and backbone by backbone.

    Args:
        runs: Results, from `load_results`.
        metric: One of `METRICS`.
        view: One of `VIEWS`; by default the one that suits each protocol.
        fallback: The view of a protocol that none suits in particular, such as few_shot.
        sets: Scored sets to show; all by default.
        methods: Order of the rows; those not named are left out. All by default.
        allow_mixed: Accept results of different configurations in a cell, and say so in a note.

    Raises:
        UserError: If results do not belong in one table, a requested set or method has no result, or no
            protocol suits the requested view.
    """
    cells = consistency.group_cells(runs)
    mixed = consistency.find_mixed(cells, allow=allow_mixed)
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for cell, members in cells.items():
        groups[cell[:2]] += members
    everything = [run for members in groups.values() for run in members]
    found = sort_names({name for run in everything for name in run.result.scores}, SET_ORDER)
    for name in sets:
        require_known("scored set", name, found)
    present = sort_names({run.key.method for run in everything}, METHOD_ORDER)
    for name in methods:
        require_known("method", name, present)
    tables: list[Table] = []
    for (protocol, _), members in sorted(groups.items(), key=lambda item: item[0]):
        members = [run for run in members if not methods or run.key.method in methods]
        rest = METRICS[metric], sets or found, methods or present, mixed
        chosen = view or _BY_PROTOCOL.get(protocol, fallback)
        tables += _arrange(members, chosen, *rest) or _arrange(members, view or fallback, *rest)
    if not tables and everything:
        protocols = ", ".join(sorted({protocol for protocol, _ in groups}))
        raise UserError(
            f"No result suits the view {view!r}: the protocols found are {protocols}, the scored sets "
            f"{', '.join(found)}. Leave --view out to get the view of each protocol."
        )
    return tables


def _arrange(
    runs: list[Run], view: str, metric: Metric, sets: Sequence[str], methods: Sequence[str], mixed: Mixed
) -> list[Table]:
    """Return the tables of one protocol and backbone."""
    if not runs or VIEWS[view].protocol not in ("", runs[0].key.protocol):
        return []
    present = {run.key.method for run in runs}
    rows = [name for name in methods if name in present]
    parts = [_Part(members, names, rows, view, metric) for members, names in _parts(runs, view, sets)]
    return [table for part in parts for table in part.tables(mixed)]


def _parts(runs: list[Run], view: str, sets: Sequence[str]) -> Iterator[tuple[list[Run], list[str]]]:
    """Yield the runs that share tables, and the scored sets of these."""
    if view == "cost":
        yield runs, list(dict.fromkeys(name for run in runs for name in run.result.scores))
    elif view in ("cross-dataset", "shifts"):
        for source in sort_data({run.key.data for run in runs}):
            members = [run for run in runs if run.key.data == source]
            scored = dict.fromkeys(name for run in members for name in run.result.scores if name in sets)
            yield from [(members, list(scored))] if scored else []
    else:
        pair = [name for name in ("base", "new") if name in sets]
        for names in [pair] if view == "base-new" else [[name] for name in sets]:
            members = [run for run in runs if any(name in run.result.scores for name in names)]
            yield from [(members, names)] if members else []


class _Part:
    """The numbers that share tables: of one scored set, of base and new, of one source, or costs."""

    def __init__(self, runs: list[Run], names: list[str], rows: list[str], view: str, metric: Metric) -> None:
        self.runs, self.names, self.rows, self.view, self.metric = runs, names, rows, view, metric
        self.transfer, self.cost = view in ("cross-dataset", "shifts"), view == "cost"
        self.scored, self.subject, self.remarks = ", ".join(names), "", list[str]()
        self.heads: dict[Any, str] = {}
        self.metrics: dict[Any, Metric] = {}
        self.shots_of: dict[str, set[int]] = defaultdict(set)
        for run in runs:
            self.shots_of[run.key.method].add(run.key.shots)
        data_sets = self.data_sets = sort_data({run.key.data for run in runs})
        if self.transfer:
            source = data_sets[0]
            self.data_sets = [name for name in names if name != source]
            data_sets = [*([source] if source in names else []), *self.data_sets]
            self.subject = f"trained on {source}, tested on {self.scored}"
            self.scored = "source, targets"
            self.heads = {source: f"{source} (source)"}
        average = [AVERAGE] if len(self.data_sets) > 1 else []
        h = [H] if view == "base-new" and len(names) == 2 and metric.higher_is_better else []
        self.axes: dict[str, list[Any]] = {
            "shots": self.all_shots(),
            "data": [*data_sets, *average],
            "what": [*names, *h],
        }
        if self.transfer and average:
            self.remarks = [f"{AVERAGE}: mean over the {len(self.data_sets)} targets, without the source"]
        if self.cost:
            self.headline = next((run.result.headline()[0] for run in runs if run.result.scores), "top-1")
            self.subject = f"Cost and accuracy ({self.headline})"
            self.metric = Metric(HEADLINE, self.headline, "%", 100.0, 2, True, self.headline)
            self.metrics = {**COSTS, HEADLINE: self.metric}
            self.heads = {name: metric.heading for name, metric in self.metrics.items()}
            self.axes |= {"data": average or self.data_sets, "what": list(self.metrics)}
            self.remarks = list(_COST)

    def all_shots(self) -> list[int]:
        """Return the shots that get a column or a table: not 0 if methods with nothing else are all it has."""
        shots = sorted({run.key.shots for run in self.runs})
        if VIEWS[self.view].columns == "shots":
            return shots
        only_zero = all(own == {0} for own in self.shots_of.values() if 0 in own)
        return [k for k in shots if k or not only_zero or not any(shots)]

    def at(self, method: str, shots: int) -> int:
        """Return the shots of a method's row in a table of ``shots``: 0 if the method has no other runs."""
        return 0 if self.shots_of[method] == {0} else shots

    def tables(self, mixed: Mixed) -> Iterator[Table]:
        """Yield the tables, each with its own cells of the one list of numbers."""
        if self.cost:
            numbers = costs(self.runs, mixed)
        else:
            numbers = scores(self.runs, self.names, self.metric, mixed, targets=self.transfer)
        gaps = add_averages(numbers, self.rows, self.data_sets) if AVERAGE in self.axes["data"] else {}
        if H in self.axes["what"] or self.cost:
            add_h(numbers)
        if self.cost and self.headline == H:
            numbers |= {place._replace(what=HEADLINE): c for place, c in numbers.items() if place.what == H}
        about, columns = VIEWS[self.view].about, VIEWS[self.view].columns
        for chosen in product(*(self.axes[axis] for axis in about)):
            at = dict(zip(about, chosen, strict=True))
            cells: Cells = {}
            for method, column in product(self.rows, self.axes[columns]):
                where = {"data": self.axes["data"][0], "what": self.names[0], **at, columns: column}
                what = TARGET if self.transfer else where["what"]
                shots = column if columns == "shots" else self.at(method, where["shots"])
                if cell := numbers.get(Place(method, where["data"], shots, what)):
                    cells[method, column] = cell
            yield self.table(cells, gaps, **at)

    def table(self, cells: Cells, gaps: Gaps, *, data: str | None = None, shots: int | None = None) -> Table:
        """Return a table of the cells with what its caption and notes must say of the runs below it."""
        if self.cost:
            data = self.axes["data"][0]
        covered = [
            run
            for run in self.runs
            if (data in (None, AVERAGE) or run.key.data == data)
            and (shots is None or run.key.shots == self.at(run.key.method, shots))
        ]
        rules: dict[str, set[str]] = defaultdict(set)
        tuned: dict[str, set[str]] = defaultdict(set)
        for run in covered:
            rules[str(run.result.selection.get("rule", "not recorded"))].add(run.key.method)
            chosen = run.result.selection.get("tuned")
            if isinstance(chosen, dict) and chosen:
                tuned[run.key.method].update(chosen)
        machines = sorted({str(run.result.provenance.get("hardware", "")) for run in covered} - {""})
        sets = [] if self.cost else self.names
        noted = notes.of_values(cells.values(), self.metric, several=len(sets) > 1)
        noted += [*notes.of_sizes(covered, sets), *notes.of_classifiers(covered, sets)]
        if shots and (at_zero := [method for method in self.rows if self.at(method, shots) == 0]):
            noted.append(f"{', '.join(at_zero)}: 0 shots.")
        if data in (None, AVERAGE):
            here = {(m, k): why for (m, k), why in gaps.items() if shots is None or k == self.at(m, shots)}
            noted += notes.of_gaps(here)
        remarks = list(self.remarks)
        if H in self.axes["what"]:
            remarks.append(_H_AVERAGE if data == AVERAGE else _H)
        if VIEWS[self.view].protocol:
            remarks.append(f"classifier: {notes.classifiers(self.runs, self.names)}")
        if self.cost and len(machines) > 1:
            noted.append(f"Seconds and memory are from different machines: {'; '.join(machines)}.")
        elif self.cost and machines:
            remarks.append(f"machine: {machines[0]}")
        return Table(
            protocol=self.runs[0].key.protocol,
            clip=self.runs[0].key.clip,
            scored=self.scored,
            metric=self.metric,
            data=data,
            shots=shots,
            data_sets=tuple(self.data_sets),
            methods=tuple(self.rows),
            columns=tuple(self.axes[VIEWS[self.view].columns]),
            cells=cells,
            rules={rule: tuple(sort_names(names, METHOD_ORDER)) for rule, names in sorted(rules.items())},
            version=self.runs[0].result.protocol,
            notes=noted,
            view=self.view,
            subject=self.subject,
            remarks=tuple(remarks),
            tuned={name: tuple(sorted(tuned[name])) for name in sort_names(tuned, METHOD_ORDER)},
            metrics=self.metrics,
            heads=self.heads,
        )
