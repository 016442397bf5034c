"""The published data sets as their YAML describes them. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mmadapt.config.paths import CONF_DIR, options
from mmadapt.data.published.locate import Home, best_folder
from mmadapt.data.published.split_json import read_split_file
from mmadapt.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Entry:
    """One data set.

    Attributes:
        facts: The content of its YAML.
        home: Where it is looked for.
    """

    facts: Mapping[str, Any]
    home: Home

    @property
    def name(self) -> str:
        """The name in ``data=name``."""
        return str(self.facts["name"])

    @property
    def source(self) -> Mapping[str, Any]:
        """Where the data come from."""
        source: Mapping[str, Any] = self.facts.get("source", {})
        return source

    @property
    def split_file(self) -> str | None:
        """Name of the split file, if the data set has one."""
        return self.facts.get("split_file")

    def images(self) -> Path | None:
        """Return the folder of images if there is one with the expected names."""
        folders: list[Path] = [
            home / images for home in self.home.existing() for images in self.facts["images"]
        ]
        split = self.home.find_file(self.split_file) if self.split_file else None
        if split is not None:
            paths = [path for part in read_split_file(split).parts for path, _ in part]
            best, _ = best_folder(folders, paths)
            return best
        for folder in folders:
            if folder.is_dir() and any(not self._lacks(base) for base in (folder, folder.parent)):
                return folder
        return None

    def lacks(self) -> list[str]:
        """Return what the archives hold besides the folder of images and no candidate has."""
        return [name for name in self._besides() if self.home.find([name]) is None]

    def _lacks(self, folder: Path) -> list[str]:
        return [name for name in self._besides() if not (folder / name).exists()]

    def _besides(self) -> list[str]:
        taken = dict.fromkeys(self.source.get("take", {}).values())
        return [name for name in taken if name not in self.facts["images"]]

    def status(self) -> str:
        """Return ``found`` or what is missing, by a quick look; `mmadapt.data.tools.check` reads everything."""
        images = self.images()
        if self.split_file and self.home.find_file(self.split_file) is None:
            return "no split file" if images else "not found"
        return "found" if images else "no images" if self.home.existing() and self.split_file else "not found"


def data_root(root: Path | None) -> Path:
    """Return the folder of all data sets: the given one, ``MMADAPT_DATA``, or ``datasets``."""
    return (root or Path(os.environ.get("MMADAPT_DATA") or "datasets")).expanduser().absolute()


def catalogue(root: Path | None = None) -> dict[str, Entry]:
    """Return all published data sets by name, alphabetically."""
    entries: dict[str, Entry] = {}
    for name in options(CONF_DIR / "data"):
        facts: Any = OmegaConf.to_container(OmegaConf.load(CONF_DIR / "data" / f"{name}.yaml"), resolve=False)
        if "folders" in facts:
            home = Home(facts["name"], data_root(root), tuple(facts["folders"]))
            entries[name] = Entry(facts, home)
    return entries


def select(entries: Mapping[str, Entry], name: str) -> Entry:
    """Return one data set.

    Raises:
        UserError: If there is none of that name.
    """
    if name not in entries:
        raise UserError(
            f"There is no published data set {name!r}{did_you_mean(name, entries)}. "
            f"Choose from: {', '.join(entries)}."
        )
    return entries[name]


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
        entry.name,
        state,
        *numbers,
        automated(entry),
        entry.source.get("licence", "not stated"),
        str(where) if where else f"{entry.home.root}/{entry.home.folders[0]} (expected)",
    )


def automated(entry: Entry) -> str:
    """Return how a data set can be had: ``automatic``, ``with --mirror`` or ``by hand``."""
    if entry.source.get("archives"):
        return "automatic"
    return "with --mirror" if entry.source.get("mirror") else "by hand"
