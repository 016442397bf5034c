"""Files beside the images that a user writes: names of the classes, prompt templates."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mmadapt.data.folder.csv_list import composed
from mmadapt.errors import UserError, did_you_mean, some

log = logging.getLogger(__name__)


def read_templates(folder: Path) -> tuple[str, ...] | None:
    """Return the lines of ``templates.txt`` in a folder; None if there is no such file."""
    file = folder / "templates.txt"
    return tuple(_lines(file)) if file.is_file() else None


def read_class_names(folder: Path, labels: Sequence[str]) -> tuple[str, ...]:
    """Return a name for each label: from ``classnames.json`` or ``classnames.txt`` in a folder, or the label.

    JSON holds ``{"label": "name"}`` or a list of names in the order of the labels. Text holds lines
    ``label name of the class`` (with a tab between them if labels have spaces), or one name per line in the
    order of the labels. A mapping must name every label and may hold more. The file never changes the order.

    Raises:
        UserError: If there are both files, one cannot be read, or it does not fit the labels.
    """
    files = [file for name in ("classnames.json", "classnames.txt") if (file := folder / name).is_file()]
    if not files:
        return tuple(labels)
    if len(files) > 1:
        raise UserError(f"{folder} has both classnames.json and classnames.txt. Keep one.")
    entries = _from_json(files[0]) if files[0].suffix == ".json" else _from_text(files[0], labels)
    names = (
        _by_label(files[0], entries, labels)
        if isinstance(entries, dict)
        else _in_order(files[0], entries, labels)
    )
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        log.warning("%s gives several classes one name: %s", files[0], some(twice))
    return names


def _from_json(file: Path) -> dict[str, str] | list[str]:
    try:
        content = json.loads(_read(file))
    except json.JSONDecodeError as error:
        raise UserError(f"{file} is not valid JSON: {error}.") from error
    names = list(content.values()) if isinstance(content, dict) else content
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        raise UserError(f'{file} must hold {{"folder": "name", …}} or a list of names, none of them empty.')
    if isinstance(content, dict):
        return {composed(label): name.strip() for label, name in content.items()}
    return [name.strip() for name in names]


def _from_text(file: Path, labels: Sequence[str]) -> dict[str, str] | list[str]:
    lines = _lines(file)
    parts = [line.split("\t", 1) if "\t" in line else line.split(maxsplit=1) for line in lines]
    if not {part[0].strip() for part in parts} & set(labels):
        return lines
    return {part[0].strip(): part[-1].strip() for part in parts}


def _by_label(file: Path, names: dict[str, str], labels: Sequence[str]) -> tuple[str, ...]:
    if absent := [label for label in labels if label not in names]:
        spare = set(names) - set(labels)
        raise UserError(
            f"{file} has no name for {len(absent)} of {len(labels)} classes: "
            f"{some(absent)}{did_you_mean(absent[0], spare)}. Add them; after a label with spaces put a tab."
        )
    return tuple(names[label] for label in labels)


def _in_order(file: Path, names: list[str], labels: Sequence[str]) -> tuple[str, ...]:
    if len(names) != len(labels):
        raise UserError(
            f"{file} holds {len(names)} names for {len(labels)} classes ({some(labels)}). "
            "Write one name per class in this order, or the class folder before each name."
        )
    known = set(labels)
    pairs = zip(map(composed, names), labels, strict=True)
    moved = [name for name, label in pairs if name in known and name != label]
    if moved:
        raise UserError(
            f"{file} names class folders in another order than {some(labels)}: {some(moved)}. "
            "Write the class folder before each name."
        )
    return tuple(names)


def _lines(file: Path) -> list[str]:
    return [line.strip() for line in composed(_read(file)).splitlines() if line.strip()]


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as text in UTF-8: {error}.") from error
