"""Names of the classes that a user writes beside the images."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mmadapt.data.folder.listing import composed
from mmadapt.errors import UserError, did_you_mean, some
from mmadapt.files import read_json, read_lines

log = logging.getLogger(__name__)


def read_class_names(folder: Path, labels: Sequence[str]) -> tuple[str, ...]:
    """Return a name for each label: from ``classnames.json`` or ``classnames.txt`` in a folder, or the label.

    JSON holds ``{"label": "name"}`` or a list of names in the order of the labels. Text holds lines
    ``label name of the class`` (with a tab between them if labels have spaces), or one name per line in the
    order of the labels. A mapping must name every label and may hold more. The file never changes the order.
    """
    files = [file for name in ("classnames.json", "classnames.txt") if (file := folder / name).is_file()]
    if not files:
        return tuple(labels)
    if len(files) > 1:
        raise UserError(f"{folder} has both classnames.json and classnames.txt. Keep one.")
    file = files[0]
    entries = _from_json(file) if file.suffix == ".json" else _from_text(file, labels)
    if isinstance(entries, dict):
        if absent := [label for label in labels if label not in entries]:
            spare = set(entries) - set(labels)
            raise UserError(
                f"{file} has no name for {len(absent)} of {len(labels)} classes: {some(absent)}"
                f"{did_you_mean(absent[0], spare)}. Add them; after a label with spaces put a tab."
            )
        entries = [entries[label] for label in labels]
    elif len(entries) != len(labels):
        raise UserError(
            f"{file} holds {len(entries)} names for {len(labels)} classes ({some(labels)}). "
            "Write one name per class in this order, or the class folder before each name."
        )
    elif moved := [
        n for n, label in zip(map(composed, entries), labels, strict=True) if label != n in labels
    ]:
        raise UserError(
            f"{file} names class folders in another order than {some(labels)}: {some(moved)}. "
            "Write the class folder before each name."
        )
    if twice := [name for name, count in Counter(entries).items() if count > 1]:
        log.warning("%s gives several classes one name: %s", file, some(twice))
    return tuple(entries)


def _from_json(file: Path) -> dict[str, str] | list[str]:
    content = read_json(file, "Correct it.")
    names = list(content.values()) if isinstance(content, dict) else content
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        raise UserError(f'{file} must hold {{"folder": "name", …}} or a list of names, none of them empty.')
    names = [name.strip() for name in names]
    return dict(zip(map(composed, content), names, strict=True)) if isinstance(content, dict) else names


def _from_text(file: Path, labels: Sequence[str]) -> dict[str, str] | list[str]:
    lines = list(map(composed, read_lines(file)))
    parts = [line.split("\t", 1) if "\t" in line else line.split(maxsplit=1) for line in lines]
    names = {part[0].strip(): part[-1].strip() for part in parts}
    return names if names.keys() & set(labels) else lines
