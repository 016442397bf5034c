"""Reads CoOp's ``split_zhou_*.json``. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from mmadapt.errors import UserError

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class SplitFile:
    """The content of a split file.

    Attributes:
        class_names: Name of each class, in label order.
        parts: Images of train, val and test: path relative to the image folder, and label.
        hashes: SHA-256 of the file and of its content as CoOp formats it.
    """

    class_names: tuple[str, ...]
    parts: tuple[list[tuple[str, int]], ...]
    hashes: tuple[str, ...]

    def paths(self) -> list[str]:
        """Return the paths of all images, those listed twice twice."""
        return [path for part in self.parts for path, _ in part]

    def is_published(self, sha256: str | None) -> bool:
        """Return whether the content fits the first digits of the published file's hash, if it is known."""
        return not sha256 or any(found.startswith(sha256) for found in self.hashes)


def read_split_file(file: Path) -> SplitFile:
    """Read and verify a split file: lists of ``[path, label, class name]`` under train, val and test."""
    try:
        raw = file.read_bytes()
        content = json.loads(raw)
    except (OSError, ValueError) as error:
        raise UserError(f"The split file {file} cannot be read as JSON: {error}. Get it again.") from error
    if not isinstance(content, dict) or any(not isinstance(content.get(part), list) for part in PARTS):
        raise UserError(f"The split file {file} must hold the lists train, val and test.")
    names: dict[int, str] = {}
    parts: tuple[list[tuple[str, int]], ...] = ([], [], [])
    for part, images in zip(PARTS, parts, strict=True):
        for row in content[part]:
            if not isinstance(row, list) or [type(cell) for cell in row] != [str, int, str]:
                raise UserError(
                    f'{file}: an entry of {part} must be ["path", label, "class name"], not {row!r:.100}.'
                )
            path, label, name = row[0].replace("\\", "/"), row[1], row[2]
            if path.startswith("/") or ".." in path.split("/") or ":" in path.split("/")[0]:
                raise UserError(f"{file}: the path {row[0]!r} leaves the image folder.")
            if names.setdefault(label, name) != name:
                raise UserError(f"{file} names the class {label} both {names[label]!r} and {name!r}.")
            images.append((path, label))
    if not names or sorted(names) != list(range(len(names))):
        raise UserError(
            f"The labels in {file} must be 0, 1, 2, … without a gap; found {sorted(names)[:5]}, …."
        )
    forms = (raw, json.dumps(content, indent=4).encode())  # copies differ in line ends
    hashes = tuple(hashlib.sha256(form).hexdigest() for form in forms)
    return SplitFile(tuple(names[label] for label in range(len(names))), parts, hashes)
