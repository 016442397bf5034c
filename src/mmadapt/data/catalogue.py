"""The published data sets as their YAML describes them. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mmadapt.data.locate import Home, best_folder
from mmadapt.data.split_json import read_split_file
from mmadapt.errors import UserError, did_you_mean
from mmadapt.places import CONF_DIR, options


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
        """Return ``found`` or what is missing, by a quick look; `mmadapt.data.check` reads everything."""
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
