"""Two methods side by side over the same seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmadapt.collect.results.consistency import count_shots
from mmadapt.collect.tables.notes import MIXED, marks_of
from mmadapt.collect.tables.render import label_of, selection
from mmadapt.collect.tables.table import AVERAGE, Cell, Entry, Grid, Metric, Table
from mmadapt.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """What one method has over another, in the unit of the metric.

    Attributes:
        mean: Mean of the differences.
        low: Lower end of the 95 % interval; minus infinity for one seed.
        high: Upper end.
        values: Difference by seed, for seeds that both have.
        marks: Marks of either cell.
    """

    mean: float
    low: float
    high: float
    values: dict[int, float]
    marks: str

    @classmethod
    def of(cls, one: Cell, other: Cell) -> Difference | None:
        """Return the difference over the seeds that both cells have, or None if there is none."""
        values = {seed: one.values[seed] - other.values[seed] for seed in one.values if seed in other.values}
        if not values:
            return None
        marks = marks_of(one) + marks_of(other)
        return cls(*interval(list(values.values()), LEVEL), values, "".join(dict.fromkeys(marks)))

    def shown(self, digits: int) -> str:
        """Return mean, interval and number of seeds."""
        text = f"{self.mean:+.{digits}f}".replace("-", "−")
        if math.isfinite(self.low):
            ends = f"{self.low:.{digits}f}, {self.high:.{digits}f}".replace("-", "−")
            text += f" [{ends}]"
        return f"{text} ({len(self.values)})"


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
    grids: dict[tuple[str, ...], list[Table]] = {}
    for table in tables:
        per_shots = (str(table.shots),) if table.view == "base-new" else ()
        source = (table.subject,) if table.view in ("cross-dataset", "shifts") else ()
        key = table.protocol, table.clip, table.view, table.scored, *per_shots, *source
        grids.setdefault(key, []).append(table)
    found = [_grid(members, one, other) for members in grids.values()]
    found = [grid for grid in found if grid.records]
    if not found:
        raise UserError(
            f"{one} and {other} have no cell with a seed in common. Run both over the same seeds: "
            f"python -m mmadapt.collect --check --methods {one},{other}"
        )
    return found


def _grid(tables: list[Table], one: str, other: str) -> Grid:
    first = tables[0]
    transposed = first.data is None  # data sets or targets are the columns of the tables
    cells: dict[tuple[str, str], tuple[Difference, Cell, Table, Metric]] = {}
    rows: dict[str, None] = {}
    columns: dict[str, None] = {}
    for table in tables:
        for column in table.columns:
            name = table.heads.get(column, str(column))
            shown = count_shots(column) if isinstance(column, int) else name
            at = "" if table.shots is None else count_shots(table.shots)
            place = (name, at) if transposed else (str(table.data), shown)
            rows.setdefault(place[0])
            columns.setdefault(place[1])
            mine, theirs = table.cells.get((one, column)), table.cells.get((other, column))
            if mine and theirs and (difference := Difference.of(mine, theirs)):
                cells[place] = difference, mine, table, table.metric_of(column)
    lines = []
    for row in rows:
        line = [Entry(row)]
        for column in columns:
            if found := cells.get((row, column)):
                line.append(Entry(found[0].shown(found[3].digits), found[0].marks))
            else:
                line.append(Entry("–"))
        lines.append(line)
    unit = "percentage points" if first.metric.unit == "%" else first.metric.unit
    better = one if first.metric.higher_is_better else other
    overall = (
        f" {AVERAGE}: mean per seed over all of them, then paired over seeds." if AVERAGE in rows else ""
    )
    at = f", {count_shots(first.shots)}" if first.view == "base-new" and first.shots is not None else ""
    about = f" {first.subject}" if first.view in ("cross-dataset", "shifts") else ""
    caption = (
        f"{first.metric.label}{about}{at}: {one} − {other} in {unit}, positive where {better} is better; "
        f"scored: {first.scored}; protocol: {first.protocol}, version {first.version}; CLIP: {first.clip}; "
        "mean difference [95 % interval of Student's t, n − 1 degrees of freedom] (n) over the n seeds that both "
        f"have, no interval for n = 1; {selection(tables)}.{overall}"
    )
    parts = [first.protocol, first.clip, one, other, first.metric.name, at]
    return Grid(
        caption,
        ["data", *columns],
        lines,
        label_of(parts),
        _notes(tables),
        records=[_record(*found, one, other) for found in cells.values()],
    )


def _notes(tables: list[Table]) -> list[str]:
    kept = [
        note
        for table in tables
        for note in table.notes
        if note.startswith(("*", MIXED, "‡", "§", "No average"))
    ]
    return list(dict.fromkeys(kept))


def _record(
    difference: Difference, cell: Cell, table: Table, metric: Metric, one: str, other: str
) -> dict[str, object]:
    single = math.isinf(difference.low)
    return {
        "protocol": table.protocol,
        "protocol_version": table.version,
        "clip": table.clip,
        "set": cell.scored or table.scored,
        "data": cell.data,
        "shots": table.shots if table.shots is not None else cell.shots,
        "method": one,
        "minus": other,
        "metric": metric.name,
        "unit": metric.unit,
        "difference": round(difference.mean, 10),
        "low": None if single else round(difference.low, 10),
        "high": None if single else round(difference.high, 10),
        "level": LEVEL,
        "n": len(difference.values),
        "seeds": list(difference.values),
        "differences": [round(value, 10) for value in difference.values.values()],
    }


def probability(t: float, df: int) -> float:
    """Return ``P(|T| ≤ t)`` for ``df ≥ 1`` degrees of freedom and ``t ≥ 0``."""
    if math.isinf(t):
        return 1.0
    angle = math.atan2(t, math.sqrt(df))
    sine, cosine2 = math.sin(angle), math.cos(angle) ** 2
    term = total = 1.0 if df % 2 == 0 else math.cos(angle)
    for k in range(2 if df % 2 == 0 else 3, df, 2):
        term *= cosine2 * (k - 1) / k
        total += term
    if df % 2 == 0:
        return sine * total
    return 2 / math.pi * (angle + (sine * total if df > 1 else 0.0))


def quantile(level: float, df: int) -> float:
    """Return the t below which ``|T|`` stays with probability ``level``: 4.303 for 95 % and df = 2.

    Raises:
        ValueError: If ``level`` is not in [0, 1) or ``df < 1``.
    """
    if not 0 <= level < 1 or df < 1:
        raise ValueError(f"no quantile for level {level} and {df} degrees of freedom")
    low, high = 0.0, 1.0
    while probability(high, df) < level:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if probability(middle, df) < level else (low, middle)
    return high


def interval(values: list[float], level: float = 0.95) -> tuple[float, float, float]:
    """Return the mean and the ends of its two-sided interval, infinite for a single value.

    The half width is ``t · s / √n`` with the sample standard deviation s (ddof = 1) and n - 1 degrees of freedom.
    """
    n = len(values)
    mean = sum(values) / n
    if n < 2:
        return mean, -math.inf, math.inf
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1))
    half = quantile(level, n - 1) * deviation / math.sqrt(n)
    return mean, mean - half, mean + half
