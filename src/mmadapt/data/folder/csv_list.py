"""One image as a data set's tree or CSV lists it, and the reader of such CSVs."""

from __future__ import annotations

import csv
import os
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePath

from mmadapt.data.splits import Split
from mmadapt.errors import DataNotFoundError, UserError, did_you_mean, some

SPLITS: dict[str, Split] = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
"""Accepted spellings, upper or lower case."""


@dataclass(frozen=True, order=True)
class Listed:
    """One image; sorting puts it into its fixed place.

    Attributes:
        label: Name of the class folder or value of the CSV, in Unicode's composed form.
        key: Path within the class, composed; the deterministic split ranks by it.
        path: Path relative to the folder or to the CSV's folder, or absolute, as the file system spells it.
        split: Where the tree or the CSV puts the image; None if it does not say.
    """

    label: str
    key: str
    path: str
    split: Split | None = None


def composed(text: str) -> str:
    """Return Unicode's composed form: macOS stores ``é`` as two characters, others as one."""
    return unicodedata.normalize("NFC", text)


def list_csv(file: Path) -> list[Listed]:
    """List the rows of a CSV with the columns path and label, and split if wanted.

    Paths are relative to the CSV's folder or absolute.

    Raises:
        UserError: If a column or value is missing, a split is unknown, or a path is listed twice.
        DataNotFoundError: If an image does not exist.
    """
    try:
        with open(file, encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            columns = [column.strip().lower() for column in reader.fieldnames or ()]
            reader.fieldnames = columns
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file} cannot be read as a CSV in UTF-8: {error}.") from error
    if absent := [column for column in ("path", "label") if column not in columns]:
        raise UserError(
            f"{file} has no column {' and '.join(absent)}; its first line holds "
            f"{', '.join(columns) or 'nothing'}. "
            "Start the file with the line path,label or path,label,split."
        )
    listed = [_row(file, number, row, "split" in columns) for number, row in rows]
    if not listed:
        raise UserError(f"{file} lists no images: it has no line after its first.")
    if twice := [path for path, count in Counter(image.path for image in listed).items() if count > 1]:
        raise UserError(f"{file} lists {len(twice)} paths more than once: {some(twice)}. Keep one line each.")
    if gone := [image.path for image in listed if not (file.parent / image.path).exists()]:
        raise DataNotFoundError(
            f"{len(gone)} of {len(listed)} images listed in {file} do not exist: {some(gone)}. "
            f"Paths are relative to {file.parent} or absolute."
        )
    return sorted(listed)


def _row(file: Path, number: int, row: dict[str, str | None], has_split: bool) -> Listed:
    path, label = (_cell(row[column]) for column in ("path", "label"))
    if not path or not label:
        raise UserError(f"{file}, line {number}: {'label' if path else 'path'} is empty.")
    relative = PurePath(os.path.normpath((row["path"] or "").strip()))
    if relative.is_absolute() and relative.is_relative_to(file.parent):
        relative = relative.relative_to(file.parent)
    word = _cell(row["split"]).casefold() if has_split else None
    if word is not None and word not in SPLITS:
        raise UserError(
            f"{file}, line {number}: split {word!r} is unknown"
            f"{did_you_mean(word, SPLITS)}. Use train, val or test."
        )
    split = SPLITS[word] if word is not None else None
    return Listed(label, composed(relative.as_posix()), relative.as_posix(), split)


def _cell(text: str | None) -> str:
    """Return a CSV value without blanks around it, composed; a short line has None."""
    return composed((text or "").strip())
