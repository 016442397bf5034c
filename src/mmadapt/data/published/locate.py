"""Where a published data set lies: known folder names, and what a folder lacks. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmadapt.errors import some

_SAMPLE = 25


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
