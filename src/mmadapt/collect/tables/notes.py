"""Remarks below a table: whatever a number alone would hide."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING

from mmadapt.collect.results.consistency import count_shots

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mmadapt.collect.results.load import Run
    from mmadapt.collect.tables.table import Cell, Metric

DIRTY = "* computed by code with uncommitted changes."
MIXED = "†"
DEVIATIONS = {
    "sliced": ("‡", "classified by the trained logits of the classes that occur (sliced)"),
    "text_only": ("§", "classified by the text side alone (text_only)"),
}
"""Mark and meaning of a classifier that is neither trained on the classes nor made from their names."""


def marks_of(cell: Cell) -> str:
    """Return the marks of a cell: uncommitted code, mixed configurations, unusual classifiers."""
    unusual = "".join(mark for name, (mark, _) in DEVIATIONS.items() if name in cell.classifiers)
    return "*" * cell.dirty + MIXED * cell.mixed + unusual


def of_values(cells: Iterable[Cell], metric: Metric, *, several: bool = False) -> list[str]:
    """Name the values that are no finite numbers, the mixed cells, and what the star means.

    Args:
        cells: What a table shows.
        metric: The metric of the table.
        several: Whether the table shows several scored sets, so that a value needs the name of its set.
    """
    bads: list[str] = []
    mixed: dict[tuple[str, int, str], list[str]] = defaultdict(list)
    dirty = False
    for cell in sorted(cells, key=lambda cell: (cell.method, cell.data, cell.shots)):
        bad = [str(seed) for seed, value in cell.values.items() if not math.isfinite(value)]
        if bad:
            where = f"{cell.method}, {cell.data}, {count_shots(cell.shots)}"
            seeds = f"{'seed' if len(bad) == 1 else 'seeds'} {', '.join(bad)}"
            name = f"{metric.name} ({cell.scored})" if several else metric.name
            bads.append(f"{where}: {name} of {seeds} is not a finite number, so neither is the mean.")
        if cell.mixed:
            mixed[cell.method, cell.shots, cell.differences].append(cell.data)
        dirty = dirty or cell.dirty
    for (method, shots, differences), data in mixed.items():
        why = f"mixed configurations ({differences})" if differences else "covers mixed configurations"
        where = ", ".join(dict.fromkeys(data))
        bads.append(f"{MIXED} {method}, {where}, {count_shots(shots)}: {why}.")
    return [*dict.fromkeys(bads), DIRTY] if dirty else list(dict.fromkeys(bads))


def of_sizes(runs: Iterable[Run], sets: Sequence[str]) -> list[str]:
    """Name the scored sets of which not all runs scored the same number of images and classes."""
    sizes: dict[str, dict[tuple[int, int], set[str]]] = defaultdict(lambda: defaultdict(set))
    for run in runs:
        for name, score in run.result.scores.items():
            if name in sets:
                data = run.key.data
                place = name if score.data == name else data if len(sets) == 1 else f"{data} ({name})"
                sizes[place][score.total, score.classes].add(run.key.method)
    notes = []
    for data, found in sizes.items():
        if len(found) > 1:
            parts = [f"{t} in {c} classes ({', '.join(sorted(m))})" for (t, c), m in sorted(found.items())]
            notes.append(f"{data}: the runs did not score the same images: {'; '.join(parts)}.")
    return notes


def of_classifiers(runs: Iterable[Run], sets: Sequence[str]) -> list[str]:
    """Say which scores do not come from the classifier that a reader expects."""
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for run in runs:
        for name in sets:
            score = run.result.scores.get(name)
            if score is not None and score.classifier in DEVIATIONS:
                found[score.classifier][run.key.method].add(name)
    notes = []
    for kind, (mark, meaning) in DEVIATIONS.items():
        parts = [
            f"{method} ({', '.join(name for name in sets if name in found[kind][method])})"
            for method in sorted(found[kind])
        ]
        if parts:
            notes.append(f"{mark} {meaning}: {', '.join(parts)}.")
    return notes


def classifiers(runs: Iterable[Run], sets: Sequence[str]) -> str:
    """Return how the classes of the scored sets are told apart: ``own (base), names (new)``."""
    runs = list(runs)
    kinds: dict[str, list[str]] = defaultdict(list)
    for name in sets:
        for kind in sorted({run.result.scores[name].classifier for run in runs if name in run.result.scores}):
            kinds[kind].append(name)
    return ", ".join(f"{kind} ({', '.join(names)})" for kind, names in kinds.items())


def of_gaps(gaps: Mapping[tuple[str, int], str]) -> list[str]:
    """Say why an average is missing; ``gaps`` holds the reason by method and shots."""
    at: dict[tuple[str, str], list[int]] = defaultdict(list)
    for (method, shots), reason in gaps.items():
        at[method, reason].append(shots)
    return [
        f"No average for {method} at {count_shots(*shots)}: {why}." for (method, why), shots in at.items()
    ]
