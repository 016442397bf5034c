"""Ours beside what was published."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmadapt.collect.tables.notes import marks_of
from mmadapt.collect.tables.published import LEGEND, UNVERIFIED, Row, grouped, names_of, ordered
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
    tables = list(tables)
    ours = _index(tables)
    groups = grouped(rows)
    grids = []
    for protocol, clip in dict.fromkeys((table.protocol, table.clip) for table in tables):
        members = groups.get((protocol, clip), [])
        most = max(
            (table.n for table in tables if (table.protocol, table.clip) == (protocol, clip)), default=0
        )
        lines, records, left_out = [], [], 0
        for row in ordered(members):
            found = ours.get(_place(row), []) if row.comparable else []
            left_out += not found and not row.computed
            for method, cell, table in found:
                difference = cell.mean - row.accuracy
                text = f"{difference:+.2f}".replace("-", "−")
                lines.append(
                    [
                        Entry(method),
                        *map(Entry, (*names_of(row)[1:], row.source)),
                        Entry(display(cell, table.metric, most), marks_of(cell)),
                        Entry(f"{row.accuracy:.2f}", "" if row.verified else UNVERIFIED),
                        Entry(text),
                    ]
                )
                records.append(_record(method, row, cell, difference))
        shown = [table for table in tables if (table.protocol, table.clip) == (protocol, clip)]
        notes = [LEGEND] if any(entry.marks == UNVERIFIED for line in lines for entry in line) else []
        notes += dict.fromkeys(
            note for table in shown for note in table.notes if note.startswith(("*", "‡", "§"))
        )
        notes.append(f"{left_out} published {'row' if left_out == 1 else 'rows'} without a run of ours.")
        caption = (
            f"Top-1 accuracy (%) beside published numbers, difference ours − published in percentage points; "
            f"protocol: {protocol}, version {shown[0].version}; CLIP: {clip}; ours: "
            f"{spread(max(shown, key=lambda table: table.n))}; {selection(shown)}."
        )
        header = ["method", "data", "shots", "set", "source", "ours (%)", "published (%)", "difference"]
        grids.append(Grid(caption, header, lines, label_of(("against", protocol, clip)), notes, 5, records))
    return grids


_Place = tuple[str, str, str, str, int, str]


def _place(row: Row) -> _Place:
    return row.protocol, row.clip, row.method, row.data, row.shots, row.scored


def _index(tables: Iterable[Table]) -> dict[_Place, list[tuple[str, Cell, Table]]]:
    found: dict[_Place, dict[str, tuple[str, Cell, Table]]] = {}
    for table in tables:
        free = set(table.rules.get("none", ()))
        for (method, _), cell in table.cells.items():
            if cell.data == AVERAGE and frozenset(table.data_sets) != COVERED.get(table.protocol):
                continue
            for shots in (cell.shots, 0) if method in free else (cell.shots,):
                name = method.split(" [")[0]  # a variant that is told apart by its tag
                place = table.protocol, table.clip, name, cell.data, shots, cell.scored
                found.setdefault(place, {}).setdefault(method, (method, cell, table))
    return {place: list(cells.values()) for place, cells in found.items()}


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
