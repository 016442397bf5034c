"""Write tables for programs (one record per cell: CSV, JSON, data frame), and write files."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmadapt.collect.tables.table import Grid
from mmadapt.errors import UserError
from mmadapt.files import replacing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pandas

    from mmadapt.collect.tables.table import Table

_NAMES = (
    "protocol protocol_version clip set data method shots metric unit mean std n min max seeds values dirty "
    "mixed classifiers"
)
"""The head of a table without a row."""


def records(tables: Iterable[Table | Grid]) -> list[dict[str, Any]]:
    """Return one record per cell and average that has a value; missing cells have none.

    A `Grid`, such as a comparison, has records with fields of its own. What stands in several tables, such as a
    method without shots, is recorded once.
    """
    rows: dict[str, dict[str, Any]] = {}
    for table in tables:
        for row in table.records if isinstance(table, Grid) else _of_table(table):
            rows.setdefault(repr(row), row)
    return list(rows.values())


def _of_table(table: Table) -> Iterator[dict[str, Any]]:
    for method, column in product(table.methods, table.columns):
        if cell := table.cells.get((method, column)):
            metric = table.metric_of(column)
            values = [round(value, 10) for value in cell.values.values()]
            finite = all(map(math.isfinite, values))
            yield {
                "protocol": table.protocol,
                "protocol_version": table.version,
                "clip": table.clip,
                "set": cell.scored or table.scored,
                "data": cell.data,
                "method": method,
                "shots": cell.shots,
                "metric": metric.name,
                "unit": metric.unit,
                "mean": round(cell.mean, 10),
                "std": None if cell.std is None else round(cell.std, 10),
                "n": cell.n,
                "min": min(values) if finite else math.nan,
                "max": max(values) if finite else math.nan,
                "seeds": list(cell.values),
                "values": values,
                "dirty": cell.dirty,
                "mixed": cell.mixed,
                "classifiers": " ".join(sorted(cell.classifiers)),
            }


def to_json(tables: Iterable[Table | Grid]) -> str:
    """Return the records as JSON; what is no finite number is null, as is the std of a single seed."""
    rows = [{name: _without_nan(value) for name, value in row.items()} for row in records(tables)]
    return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"


def to_csv(tables: Iterable[Table | Grid]) -> str:
    """Return the records as CSV; seeds and values are separated by spaces."""
    rows = records(tables)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=_names(rows), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: " ".join(map(str, v)) if isinstance(v, list) else v for k, v in row.items()})
    return stream.getvalue()


def to_frame(tables: Iterable[Table | Grid]) -> pandas.DataFrame:
    """Return the records as a data frame."""
    import pandas

    rows = records(tables)
    return pandas.DataFrame(rows, columns=_names(rows))


def _names(rows: Iterable[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row)) or _NAMES.split()


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, or a crash, sees either the old file or the whole new one.

    Raises:
        UserError: If the path is a folder or device, or cannot be written.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "not a regular file"
        raise UserError(f"{path} is {kind}. Give the name of a file, for example {path / 'table.md'}.")
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror}. Choose another place.") from error


def _without_nan(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
