"""The table of ``python -m mmadapt.data list``. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable

from mmadapt.data.catalogue import Entry
from mmadapt.data.prepare import automated
from mmadapt.errors import UserError

_HEAD = ("data", "state", "classes", "train", "val", "test", "prepare", "licence", "where")


def listing_table(entries: Iterable[Entry]) -> str:
    """Return one line per data set, columns aligned."""
    rows = [_HEAD, *map(_row, entries)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if 2 <= i <= 5 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines.append("\nfound: by a quick look; python -m mmadapt.data check compares every file.")
    return "\n".join(lines)


def _row(entry: Entry) -> tuple[str, ...]:
    counts = entry.facts.get("counts", {})
    numbers = (f"{counts[key]:,}" if key in counts else "–" for key in ("classes", "train", "val", "test"))
    try:
        state, images = entry.status(), entry.images()
    except UserError:
        state, images = "split damaged", None
    existing = entry.home.existing()
    where = images or (existing[0] if existing and existing[0] != entry.home.root else None)
    return (
        entry.name, state, *numbers, automated(entry), entry.source.get("licence", "not stated"),
        str(where) if where else f"{entry.home.root}/{entry.home.folders[0]} (expected)",
    )  # fmt: skip
