"""Two methods side by side over the same seeds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mmadapt.collect.results.consistency import count_shots
from mmadapt.collect.tables.notes import MIXED, marks_of
from mmadapt.collect.tables.render import label_of, selection
from mmadapt.collect.tables.table import AVERAGE, Entry, Grid, Table
from mmadapt.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

LEVEL = 0.95
_QUANTILES = (
    12.706204736174678, 4.30265272974946, 3.1824463052837064, 2.7764451051977934, 2.570581835636313,
    2.4469118511449666, 2.3646242515927836, 2.3060041352041662, 2.262157162798204, 2.228138851986274,
)  # fmt: skip
_EXPANSION = (1.959963984540054, 2.372271230298562, 2.8224986157396112, 2.555849679507722, 1.5895340533938225)


def compare(tables: Iterable[Table], one: str, other: str) -> list[Grid]:
    """Return the paired differences ``one - other`` of each pair of cells: a grid per kind of table.

    Args:
        tables: Tables with both methods. Those of one protocol, backbone and scored set make one grid, with
            data sets (or targets) in rows, and shots or scored sets in columns.
        one: Name of a method.
        other: Name of the method that is subtracted.

    Raises:
        UserError: If both are the same, or they have no seed in common.
    """
    if one == other:
        raise UserError(f"--compare needs two methods, not {one!r} twice.")
    kinds: dict[tuple[object, ...], list[Table]] = {}
    for table in tables:
        shots = table.shots if table.view == "base-new" else None
        key = table.protocol, table.clip, table.view, table.scored, shots, table.subject
        kinds.setdefault(key, []).append(table)
    found = [grid for members in kinds.values() if (grid := _grid(members, one, other)).records]
    if not found:
        raise UserError(
            f"{one} and {other} have no cell with a seed in common. Run both over the same seeds: "
            f"python -m mmadapt.collect --check --methods {one},{other}"
        )
    return found


def _grid(tables: list[Table], one: str, other: str) -> Grid:
    first = tables[0]
    entries: dict[tuple[str, str], Entry] = {}
    records = []
    rows: dict[str, None] = {}
    columns: dict[str, None] = {}
    for table in tables:
        for column in table.columns:
            name = count_shots(column) if isinstance(column, int) else table.heads.get(column, column)
            at = count_shots(table.shots or 0)
            place = (table.data, name) if table.data else (name, at)  # data sets may be the columns
            rows.setdefault(place[0])
            columns.setdefault(place[1])
            mine, theirs = table.cells.get((one, column)), table.cells.get((other, column))
            if mine and theirs and (shared := [seed for seed in mine.values if seed in theirs.values]):
                metric = table.metric_of(column)
                values = {seed: mine.values[seed] - theirs.values[seed] for seed in shared}
                mean, half = interval(list(values.values()))
                marks = "".join(dict.fromkeys(marks_of(mine) + marks_of(theirs)))
                entries[place] = Entry(_shown(mean, half, len(values), metric.digits), marks)
                single = len(values) < 2
                records.append(
                    {
                        "protocol": table.protocol,
                        "protocol_version": table.version,
                        "clip": table.clip,
                        "set": mine.scored,
                        "data": mine.data,
                        "shots": mine.shots if table.shots is None else table.shots,
                        "method": one,
                        "minus": other,
                        "metric": metric.name,
                        "unit": metric.unit,
                        "difference": round(mean, 10),
                        "low": None if single else round(mean - half, 10),
                        "high": None if single else round(mean + half, 10),
                        "level": LEVEL,
                        "n": len(values),
                        "seeds": list(values),
                        "differences": [round(value, 10) for value in values.values()],
                    }
                )
    unit = "percentage points" if first.metric.unit == "%" else first.metric.unit
    better = one if first.metric.higher_is_better else other
    overall = (
        f" {AVERAGE}: mean per seed over all of them, then paired over seeds." if AVERAGE in rows else ""
    )
    at = f", {count_shots(first.shots)}" if first.view == "base-new" and first.shots is not None else ""
    about = f" {first.subject}" if first.subject else ""
    caption = (
        f"{first.metric.label}{about}{at}: {one} − {other} in {unit}, positive where {better} is better; "
        f"scored: {first.scored}; protocol: {first.protocol}, version {first.version}; CLIP: {first.clip}; "
        "mean difference [95 % interval of Student's t, n − 1 degrees of freedom] (n) over the n seeds that both "
        f"have, no interval for n = 1; {selection(tables)}.{overall}"
    )
    kept = ("*", MIXED, "‡", "§", "No average")
    notes = dict.fromkeys(note for table in tables for note in table.notes if note.startswith(kept))
    return Grid(
        caption,
        ["data", *columns],
        [[Entry(row), *(entries.get((row, column), Entry("–")) for column in columns)] for row in rows],
        label_of([first.protocol, first.clip, one, other, first.metric.name, at]),
        list(notes),
        records=records,
    )


def _shown(mean: float, half: float, n: int, digits: int) -> str:
    ends = f" [{mean - half:.{digits}f}, {mean + half:.{digits}f}]" if math.isfinite(half) else ""
    return f"{mean:+.{digits}f}{ends} ({n})".replace("-", "−")


def interval(values: list[float]) -> tuple[float, float]:
    """Return the mean and the half width of its two-sided 95 % interval, infinite for a single value.

    The half width is ``t · s / √n`` with the sample standard deviation s (ddof = 1) and n - 1 degrees of freedom.
    """
    n = len(values)
    mean = sum(values) / n
    if n < 2:
        return mean, math.inf
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1))
    return mean, quantile(n - 1) * deviation / math.sqrt(n)


def quantile(df: int) -> float:
    """Return the t below which ``|T|`` stays with a probability of 95 %; beyond 10 degrees of freedom to 3e-6."""
    if df <= len(_QUANTILES):
        return _QUANTILES[df - 1]
    return math.fsum(term / df**power for power, term in enumerate(_EXPANSION))
