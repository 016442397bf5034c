"""Where a published data set lies, what its folder lacks, what its split file holds. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmadapt.errors import UserError, some

_SAMPLE = 25
_PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Home:
    """The places where a data set is looked for.

    Attributes:
        name: The data set, as in ``data=name``.
        root: Folder of all data sets, ``paths.data``.
        folders: Names that CoOp, CLIP-LoRA and torchvision give the data set's folder below the root.
        dir: The folder itself, if the user named it; then nothing else is looked at.
    """

    name: str
    root: Path
    folders: tuple[str, ...]
    dir: Path | None = None

    def candidates(self) -> list[Path]:
        """Return the folders to look at, in order."""
        return [self.dir] if self.dir is not None else [self.root / folder for folder in self.folders]

    def existing(self) -> list[Path]:
        """Return those that exist."""
        return [folder for folder in self.candidates() if folder.is_dir()]

    def find(self, names: Iterable[str]) -> Path | None:
        """Return the first ``folder/name`` that exists."""
        names = list(names)
        return next((f / n for f in self.candidates() for n in names if (f / n).exists()), None)

    def find_file(self, name: str) -> Path | None:
        """Return a file beside the images, above them up to the root, or in the root's folder ``splits``."""
        places: list[Path] = []
        for folder in self.candidates():
            places += [folder, *(above for above in folder.parents if above.is_relative_to(self.root))]
        places.append(self.root / "splits")
        return next((place / name for place in places if (place / name).is_file()), None)

    def searched(self) -> str:
        """Return the sentence that says where we looked and what to type."""
        if self.dir is not None:
            return f"Looked in data.dir={self.dir}."
        return (
            f"Looked in {self.root} for {', '.join(self.folders)}. Set MMADAPT_DATA or paths.data to the "
            f"folder of all data sets, or data.dir to this one's; python -m mmadapt.data prepare {self.name} "
            "says how to get it."
        )


def best_folder(folders: Sequence[Path], paths: Sequence[str]) -> Path | None:
    """Return the folder that holds most of a sample of relative paths; None if none holds any."""
    sample = paths[:: max(1, len(paths) // _SAMPLE)]
    hits = {folder: sum((folder / path).is_file() for path in sample) for folder in folders}
    return max(filter(hits.get, hits), key=lambda folder: hits[folder], default=None)


def find_missing(folder: Path, paths: Iterable[str]) -> list[str]:
    """Return the relative paths that do not exist, by one listing per sub-folder."""
    known: dict[str, set[str]] = {}
    missing: list[str] = []
    for path in paths:
        parent, _, name = path.rpartition("/")
        if parent not in known:
            known[parent] = _listed(folder / parent)
        # exists() once more: a file system that ignores case or composes accents finds what a listing lacks
        if name not in known[parent] and not (known[parent] and (folder / path).exists()):
            missing.append(path)
    return missing


def explain_missing(folder: Path, missing: Sequence[str], total: int) -> str:
    """Return how many images are missing, the first five of them, and the likely reason."""
    end = "" if len(missing) > 5 else "."
    text = f"{len(missing)} of {total} images are missing below {folder}: {some(missing)}{end}"
    return f"{text}{_case_hint(folder, missing)}{_nesting_hint(folder, missing[0])}"


def _case_hint(folder: Path, missing: Sequence[str]) -> str:
    """Say if names differ in upper and lower case only, as of self-extracted UCF101 frames."""
    known: dict[Path, dict[str, str]] = {}
    first, count = "", 0
    for path in missing:
        present = folder
        for part in path.split("/"):
            if present not in known:
                known[present] = {name.casefold(): name for name in _listed(present)}
            match = part if (present / part).exists() else known[present].get(part.casefold())
            if match is None:
                break
            present = present / match
        else:
            count += 1
            first = first or f"{path} is there as {present.relative_to(folder).as_posix()}"
    return f" {count} of them differ in upper and lower case only: {first}. Rename them." if count else ""


def _nesting_hint(folder: Path, path: str) -> str:
    """Say if an archive was unpacked one folder too deep, as Kaggle's cars_train/cars_train."""
    top = path.split("/")[0]
    if "/" in path and (folder / top / path).exists():
        return f" {folder / top / top} is nested once too deep: move what it holds to {folder / top}."
    deeper = [inner for inner in sorted(_listed(folder)) if (folder / inner / path).exists()]
    return f" The images lie in {folder / deeper[0]}: move what it holds to {folder}." if deeper else ""


def _listed(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()


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
    if not isinstance(content, dict) or any(not isinstance(content.get(part), list) for part in _PARTS):
        raise UserError(f"The split file {file} must hold the lists train, val and test.")
    names: dict[int, str] = {}
    parts: tuple[list[tuple[str, int]], ...] = ([], [], [])
    for part, images in zip(_PARTS, parts, strict=True):
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
