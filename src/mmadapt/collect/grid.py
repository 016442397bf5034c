"""A table of finished text: what Markdown and LaTeX have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Entry:
    """One field of a row: its text, marks such as ``*``, and whether it is the best of its column."""

    text: str
    marks: str = ""
    bold: bool = False


@dataclass
class Grid:
    """Rows of text with what a reader must know to use them.

    Attributes:
        caption: What is shown, in one sentence; goes above the rows.
        header: Heads of the columns.
        rows: Entries by row and column.
        label: Name for references.
        notes: Remarks on single entries; go below the rows.
        left: Number of leading columns of names; the others are numbers.
        records: The same for programs, one record per row or number.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Entry]]
    label: str
    notes: Sequence[str] = ()
    left: int = 1
    records: list[dict[str, Any]] = field(default_factory=list)
