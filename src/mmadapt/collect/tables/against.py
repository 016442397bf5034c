"""Ours beside what was published."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmadapt.collect.tables.notes import marks_of
from mmadapt.collect.tables.published import LEGEND, UNVERIFIED, Row, grouped, names_of
from mmadapt.collect.tables.render import display, label_of, selection, spread
from mmadapt.collect.tables.table import AVERAGE, Cell, Entry, Grid, Table

if TYPE_CHECKING:
    from collections.abc import Iterable

PAPER_DATA = frozenset(
    {
        "imagenet",
        "caltech101",
        "oxford_pets",
        "stanford_cars",
        "oxford_flowers",
        "food101",
        "fgvc_aircraft",
        "sun397",
        "dtd",
        "eurosat",
        "ucf101",
    }
)
"""The data sets of the papers' averages."""
COVERED = {
    "few_shot": PAPER_DATA,
    "base_to_new": PAPER_DATA,
    "cross_dataset": PAPER_DATA - {"imagenet"},
    "domain_generalization": frozenset({"imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r"}),
}
"""What the average of each protocol is over; ours is compared only if it is over the same."""


def against(tables: Iterable[Table], rows: Iterable[Row]) -> list[Grid]:
    """Return ours beside what was published, with the difference: a grid per protocol and backbone.

    Args:
        tables: Top-1 tables whose columns are data sets, scored sets or targets.
        rows: Published numbers; those without a cell of ours are counted and left out. Numbers without shots
            match a method of ours that uses none. An average matches only if ours is over the papers' data sets,
            base and new only if they are halves of the classes.
    """
    groups: dict[tuple[str, str], list[Table]] = {}
    for table in tables:
        groups.setdefault((table.protocol, table.clip), []).append(table)
    theirs = grouped(rows)
    return [_grid(shown, theirs.get(group, [])) for group, shown in groups.items()]


def _grid(tables: list[Table], rows: list[Row]) -> Grid:
    first, ours = tables[0], _index(tables)
    widest = max(tables, key=lambda table: table.n)
    lines, records, left_out = [], [], 0
    for row in rows:
        found = ours.get((row.method, row.data, row.shots, row.scored), []) if row.comparable else []
        left_out += not found and not row.computed
        for method, cell in found:
            difference = cell.mean - row.accuracy
            lines.append(
                [
                    *map(Entry, (method, *names_of(row))),
                    Entry(display(cell, first.metric, widest.n), marks_of(cell)),
                    Entry(f"{row.accuracy:.2f}", row.marks),
                    Entry(f"{difference:+.2f}".replace("-", "−")),
                ]
            )
            records.append(_record(method, row, cell, difference))
    notes = [LEGEND] if any(entry.marks == UNVERIFIED for line in lines for entry in line) else []
    notes += dict.fromkeys(
        note for table in tables for note in table.notes if note.startswith(("*", "‡", "§"))
    )
    notes.append(f"{left_out} published {'row' if left_out == 1 else 'rows'} without a run of ours.")
    caption = (
        f"Top-1 accuracy (%) beside published numbers, difference ours − published in percentage points; "
        f"protocol: {first.protocol}, version {first.version}; CLIP: {first.clip}; ours: {spread(widest)}; "
        f"{selection(tables)}."
    )
    header = ["method", "data", "shots", "set", "source", "ours (%)", "published (%)", "difference"]
    label = label_of(("against", first.protocol, first.clip))
    return Grid(caption, header, lines, label, notes, 5, records)


def _index(tables: Iterable[Table]) -> dict[tuple[str, str, int, str], list[tuple[str, Cell]]]:
    """Return our cells by method, data set, shots and scored set; variants of a method are told apart by tag."""
    found: dict[tuple[str, str, int, str], dict[str, Cell]] = {}
    for table in tables:
        for (method, _), cell in table.cells.items():
            if cell.data == AVERAGE and frozenset(table.data_sets) != COVERED.get(table.protocol):
                continue
            free = method in table.rules.get("none", ())
            for shots in {cell.shots, 0} if free else {cell.shots}:
                place = method.split(" [")[0], cell.data, shots, cell.scored
                found.setdefault(place, {}).setdefault(method, cell)
    return {place: list(cells.items()) for place, cells in found.items()}


def _record(method: str, row: Row, cell: Cell, difference: float) -> dict[str, Any]:
    return {
        "protocol": row.protocol,
        "clip": row.clip,
        "set": row.scored,
        "data": row.data,
        "method": method,
        "shots": row.shots,
        "metric": "top1",
        "unit": "%",
        "mean": round(cell.mean, 10),
        "std": None if cell.std is None else round(cell.std, 10),
        "n": cell.n,
        "published": row.accuracy,
        "published_std": row.std,
        "difference": round(difference, 10),
        "source": row.source,
        "verified": row.verified,
    }
