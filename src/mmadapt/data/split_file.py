"""Data sets whose train, val and test are listed in CoOp's ``split_zhou_*.json``."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmadapt.data.benchmark import BenchmarkData
from mmadapt.data.locate import best_folder, explain_missing
from mmadapt.data.splits import Splits
from mmadapt.errors import DataNotFoundError, UserError

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class SplitFile:
    """The content of a split file.

    Attributes:
        class_names: Name of each class, in label order.
        parts: Images of train, val and test: path relative to the image folder, and label.
        twice: Images that are listed more than once.
        hashes: SHA-256 of the file and of its content as CoOp formats it.
    """

    class_names: tuple[str, ...]
    parts: tuple[list[tuple[str, int]], ...]
    twice: tuple[str, ...]
    hashes: tuple[str, ...]


class SplitFileData(BenchmarkData):
    """A data set with a published split file; nothing is ever split here."""

    def __init__(self, *, split_file: str, split_sha256: str | None = None, **options: Any) -> None:
        """Bind a split file.

        Args:
            split_file: Its name beside the images, or its absolute path.
            split_sha256: First digits of the published file's SHA-256; another content is reported.
            options: See `BenchmarkData`.
        """
        super().__init__(**options)
        self.split_file, self.split_sha256 = split_file, split_sha256

    def read_splits(self) -> Splits:
        """Read the split file and make sure that its images exist.

        Raises:
            DataNotFoundError: If split file or images are missing.
            UserError: If the split file is damaged.
        """
        split = read_split_file(self._find_split_file())
        if self.split_sha256 and not any(h.startswith(self.split_sha256) for h in split.hashes):
            self.note(f"{self.split_file} differs from the published file.")
        if split.twice:
            self.note(f"{self.split_file} lists {len(split.twice)} images more than once, such as {split.twice[0]}.")
        train, val, test = split.parts
        self.check_counts(classes=len(split.class_names), train=len(train), val=len(val), test=len(test))
        return Splits(split.class_names, *self.image_sets(self._image_folder(split), split.parts))

    def _find_split_file(self) -> Path:
        found = self.home.find_file(str(Path(self.split_file).expanduser()))
        if found is not None:
            return found
        place = (self.home.existing() or self.home.candidates())[0]
        raise DataNotFoundError(
            f"The split file {self.split_file} of {self.name} was not found, and no other split stands in for "
            f"it. {self.home.searched()} To get only the split: python -m mmadapt.data prepare {self.name} "
            f"--split-only, which puts it into {place}."
        )

    def _image_folder(self, split: SplitFile) -> Path:
        paths = [path for part in split.parts for path, _ in part]
        folders = [home / images for home in self.home.candidates() for images in self.image_folders]
        best, hits = best_folder(folders, paths)
        if best is not None and hits:
            return best
        existing = [folder for folder in folders if folder.is_dir()]
        if existing:
            raise DataNotFoundError(
                f"{self.name}: {explain_missing(existing[0], list(dict.fromkeys(paths)), len(set(paths)))}"
            )
        raise DataNotFoundError(
            f"{self.name}: no folder {' or '.join(dict.fromkeys(self.image_folders))} with its images. {self.home.searched()}"
        )


def read_split_file(file: Path) -> SplitFile:
    """Read and verify a split file: lists of ``[path, label, class name]`` under train, val and test.

    Raises:
        UserError: If it is not of that form, leaves the image folder, or names a class in two ways.
    """
    try:
        raw = file.read_bytes()
        content = json.loads(raw)
    except (OSError, ValueError) as error:
        raise UserError(f"The split file {file} cannot be read as JSON: {error}. Get it again.") from error
    if not isinstance(content, dict) or any(not isinstance(content.get(part), list) for part in PARTS):
        raise UserError(f"The split file {file} must hold the lists train, val and test.")
    names: dict[int, str] = {}
    parts: list[list[tuple[str, int]]] = []
    for part in PARTS:
        images: list[tuple[str, int]] = []
        for row in content[part]:
            path, label, name = _row(file, part, row)
            if names.setdefault(label, name) != name:
                raise UserError(f"{file} names the class {label} both {names[label]!r} and {name!r}.")
            images.append((path, label))
        parts.append(images)
    if not names or sorted(names) != list(range(len(names))):
        raise UserError(f"The labels in {file} must be 0, 1, 2, … without a gap; found {sorted(names)[:5]}, ….")
    counts = Counter(path for images in parts for path, _ in images)
    twice = tuple(path for path, count in counts.items() if count > 1)
    class_names = tuple(names[label] for label in range(len(names)))
    return SplitFile(class_names, tuple(parts), twice, _hashes(raw, content))


def _row(file: Path, part: str, row: Any) -> tuple[str, int, str]:
    if not isinstance(row, list) or [type(cell) for cell in row] != [str, int, str]:
        raise UserError(f'{file}: an entry of {part} must be ["path", label, "class name"], not {row!r:.100}.')
    path = row[0].replace("\\", "/")
    if path.startswith("/") or ".." in path.split("/") or ":" in path.split("/")[0]:
        raise UserError(f"{file}: the path {row[0]!r} leaves the image folder.")
    return path, row[1], row[2]


def _hashes(raw: bytes, content: Any) -> tuple[str, ...]:
    """Copies differ in line ends and a trailing newline; CoOp writes with an indent of four."""
    text = raw.replace(b"\r\n", b"\n").strip()
    forms = (raw, text, text + b"\n", json.dumps(content, indent=4).encode())
    return tuple(hashlib.sha256(form).hexdigest() for form in forms)
