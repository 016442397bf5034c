"""The numbers of runs as one list: method, data set, shots and what was measured, by seed; then what follows."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from mmadapt.collect.tables.table import AVERAGE, COSTS, HEADLINE, Cell
from mmadapt.results import harmonic_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mmadapt.collect.results.consistency import Mixed
    from mmadapt.collect.results.load import Run
    from mmadapt.collect.tables.table import Metric

H = "H"
TARGET = "target"
"""Stands for whichever set is scored where each of them is a data set of its own."""


class Place(NamedTuple):
    """Where a number belongs; ``what`` is a scored set, `H`, `TARGET` or a cost."""

    method: str
    data: str
    shots: int
    what: str


Numbers = dict[Place, Cell]


def scores(
    runs: Iterable[Run], names: Sequence[str], metric: Metric, mixed: Mixed, *, targets: bool = False
) -> Numbers:
    """Return a metric on the scored sets; with ``targets`` each set is a data set of its own."""
    numbers: Numbers = {}
    for run in runs:
        for name in names:
            if score := run.result.scores.get(name):
                what, data = (TARGET, name) if targets else (name, run.key.data)
                cell = _cell(numbers, run, what, data, mixed)
                cell.values[run.key.seed] = metric.scale * getattr(score, metric.name)
                cell.scored = name
                cell.classifiers |= {score.classifier}
    return numbers


def costs(runs: Iterable[Run], mixed: Mixed) -> Numbers:
    """Return what runs cost and their headline, or base and new where the headline is H."""
    numbers: Numbers = {}
    for run in runs:
        found = {name: run.result.cost[name] for name in COSTS if name in run.result.cost}
        seconds = [number for name, number in run.result.cost.items() if name.endswith("_seconds")]
        if seconds:
            found["total_seconds"] = sum(seconds)
        if run.result.scores.keys() == {"base", "new"}:
            found |= {name: 100 * score.top1 for name, score in run.result.scores.items()}
        elif run.result.scores:
            found[HEADLINE] = 100 * run.result.headline()[1]
        for name, number in found.items():
            _cell(numbers, run, name, run.key.data, mixed).values[run.key.seed] = number
    return numbers


def _cell(numbers: Numbers, run: Run, what: str, data: str, mixed: Mixed) -> Cell:
    place = Place(run.key.method, data, run.key.shots, what)
    if place not in numbers:
        why = mixed.get(run.cell, "")
        numbers[place] = Cell(place.method, data, place.shots, {}, mixed=bool(why), differences=why)
    numbers[place].dirty |= run.dirty
    return numbers[place]


def add_averages(
    numbers: Numbers, methods: Iterable[str], data_sets: Sequence[str]
) -> dict[tuple[str, int], str]:
    """Append the mean over the data sets per seed, only where every one has every seed; return what is missing."""
    gaps: dict[tuple[str, int], str] = {}
    shots = sorted({place.shots for place in numbers})
    whats = dict.fromkeys(place.what for place in numbers)
    for method, k, what in product(methods, shots, whats):
        cells = {data: numbers.get(Place(method, data, k, what)) for data in data_sets}
        present = [cell for cell in cells.values() if cell]
        seeds = sorted({seed for cell in present for seed in cell.values})
        lacking = []
        for data, cell in cells.items():
            absent = [str(seed) for seed in seeds if cell and seed not in cell.values]
            if absent:
                lacking.append(f"{data} lacks seed {', '.join(absent)}")
            elif not cell:
                lacking.append(f"{data} is missing")
        if present and lacking:
            gaps[method, k] = "; ".join(lacking)
        elif present:
            values = {seed: sum(cell.values[seed] for cell in present) / len(present) for seed in seeds}
            scored = AVERAGE if what == TARGET else present[0].scored
            numbers[Place(method, AVERAGE, k, what)] = _combine(present, values, AVERAGE, scored)
    return gaps


def add_h(numbers: Numbers) -> None:
    """Append the harmonic mean of base and new per seed; of averages it is that of the averages."""
    for place, base in list(numbers.items()):
        new = numbers.get(place._replace(what="new"))
        if place.what == "base" and new:
            shared = [seed for seed in base.values if seed in new.values]
            values = {seed: harmonic_mean(base.values[seed], new.values[seed]) for seed in shared}
            if values:
                scored = H if base.scored else ""
                numbers[place._replace(what=H)] = _combine((base, new), values, place.data, scored)


def _combine(cells: Sequence[Cell], values: Mapping[int, float], data: str, scored: str) -> Cell:
    """Return a cell computed from others: it has the marks that any of them has."""
    return Cell(
        cells[0].method,
        data,
        cells[0].shots,
        dict(values),
        dirty=any(cell.dirty for cell in cells),
        mixed=any(cell.mixed for cell in cells),
        scored=scored,
        classifiers=frozenset().union(*(cell.classifiers for cell in cells)),
    )
