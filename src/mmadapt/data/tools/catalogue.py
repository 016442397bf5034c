"""The published data sets as their YAML describes them. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mmadapt.config.paths import CONF_DIR, options
from mmadapt.data.published.locate import Home, best_folder, read_split_file
from mmadapt.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Entry:
    """One data set: the content of its YAML, and where it is looked for."""

    facts: Mapping[str, Any]
    home: Home

    @property
    def name(self) -> str:
        """The name in ``data=name``."""
        return self.home.name

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
        names: Sequence[str] = self.facts["images"]
        folders = [home / name for home in self.home.existing() for name in names]
        split = self.home.find_file(self.split_file) if self.split_file else None
        if split is not None:
            return best_folder(folders, read_split_file(split).paths())
        besides = self._besides()
        for folder in filter(Path.is_dir, folders):
            if any(all((base / name).exists() for name in besides) for base in (folder, folder.parent)):
                return folder
        return None

    def lacks(self) -> list[str]:
        """Return what the archives hold besides the folder of images and no candidate has."""
        return [name for name in self._besides() if self.home.find([name]) is None]

    def _besides(self) -> list[str]:
        taken = dict.fromkeys(self.source.get("take", {}).values())
        return [name for name in taken if name not in self.facts["images"]]

    def status(self) -> str:
        """Return ``found`` or what is missing, by a quick look; `mmadapt.data.tools.check` reads everything."""
        images = self.images() is not None
        if self.split_file and self.home.find_file(self.split_file) is None:
            return "no split file" if images else "not found"
        if images:
            return "found"
        return "no images" if self.split_file and self.home.existing() else "not found"


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
    """Return one data set; refuse a name that none has."""
    if name not in entries:
        raise UserError(
            f"There is no published data set {name!r}{did_you_mean(name, entries)}. "
            f"Choose from: {', '.join(entries)}."
        )
    return entries[name]


def listing_table(entries: Iterable[Entry]) -> str:
    """Return one line per data set, columns aligned."""
    head = ("data", "state", "classes", "train", "val", "test", "prepare", "licence", "where")
    rows = [head, *map(_row, entries)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    form = "  ".join(f"{{:{'>' if 2 <= i <= 5 else '<'}{width}}}" for i, width in enumerate(widths))
    last = "\nfound: by a quick look; python -m mmadapt.data check compares every file."
    return "\n".join([*(form.format(*row).rstrip() for row in rows), last])


def _row(entry: Entry) -> tuple[str, ...]:
    counts = entry.facts.get("counts", {})
    numbers = (f"{counts[key]:,}" if key in counts else "–" for key in ("classes", "train", "val", "test"))
    try:
        state, images = entry.status(), entry.images()
    except UserError:
        state, images = "split damaged", None
    existing = [folder for folder in entry.home.existing()[:1] if folder != entry.home.root]
    where = images or next(iter(existing), f"{entry.home.root}/{entry.home.folders[0]} (expected)")
    licence = entry.source.get("licence", "not stated")
    return (entry.name, state, *numbers, automated(entry), licence, str(where))


def automated(entry: Entry) -> str:
    """Return how a data set can be had: ``automatic``, ``with --mirror`` or ``by hand``."""
    if entry.source.get("archives"):
        return "automatic"
    return "with --mirror" if entry.source.get("mirror") else "by hand"
