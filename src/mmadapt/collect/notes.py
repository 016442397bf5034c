"""Remarks below a table: whatever a number alone would hide."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING

from mmadapt.collect.consistency import count_shots

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mmadapt.collect.load import Run
    from mmadapt.collect.table import Cell, Metric

DIRTY = "* computed by code with uncommitted changes."
MIXED = "†"


def of_values(cells: Iterable[Cell], metric: Metric, mixed: Mapping[tuple[str, str, int], str]) -> list[str]:
    """Name the values that are no finite numbers, the mixed cells, and what the star means."""
    notes = []
    dirty = False
    for cell in sorted(cells, key=lambda cell: (cell.method, cell.data, cell.shots)):
        where = f"{cell.method}, {cell.data}, {count_shots(cell.shots)}"
        bad = [str(seed) for seed, value in cell.values.items() if not math.isfinite(value)]
        if bad:
            seeds = f"{'seed' if len(bad) == 1 else 'seeds'} {', '.join(bad)}"
            notes.append(f"{where}: {metric.name} of {seeds} is not a finite number, so neither is the mean.")
        if differences := mixed.get((cell.method, cell.data, cell.shots)):
            notes.append(f"{MIXED} {where}: mixed configurations ({differences}).")
        elif cell.mixed:
            notes.append(f"{MIXED} {where}: covers mixed configurations.")
        dirty = dirty or cell.dirty
    return [*notes, DIRTY] if dirty else notes


def of_sizes(runs: Iterable[Run], scored: str) -> list[str]:
    """Name the data sets of which not all runs scored the same number of images and classes."""
    sizes: dict[str, dict[tuple[int, int], set[str]]] = defaultdict(lambda: defaultdict(set))
    for run in runs:
        score = run.result.scores[scored]
        sizes[run.key.data][score.total, score.classes].add(run.key.method)
    notes = []
    for data, found in sizes.items():
        if len(found) > 1:
            parts = [f"{t} in {c} classes ({', '.join(sorted(m))})" for (t, c), m in sorted(found.items())]
            notes.append(f"{data}: the runs did not score the same images: {'; '.join(parts)}.")
    return notes


def of_gaps(gaps: Mapping[tuple[str, int], str]) -> list[str]:
    """Say why an average is missing; ``gaps`` holds the reason by method and shots."""
    at: dict[tuple[str, str], list[int]] = defaultdict(list)
    for (method, shots), reason in gaps.items():
        at[method, reason].append(shots)
    return [
        f"No average for {method} at {count_shots(*shots)}: {why}." for (method, why), shots in at.items()
    ]


def of_rules(rules: Mapping[str, Sequence[str]]) -> str:
    """Return the selection rules in words, with their methods if there are several."""
    if len(rules) == 1:
        return next(iter(rules))
    return ", ".join(f"{rule} ({', '.join(methods)})" for rule, methods in rules.items())
