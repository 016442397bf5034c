"""Labelled images that are read when they are needed, each with an identity that follows its content."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
import warnings
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from mmadapt.errors import UserError

_TICK_NS = 2_000_000_000
"""Coarsest clock of a common file system (FAT: two seconds)."""


class BadImageError(UserError):
    """An image file that cannot be read or decoded."""


class FileHashes:
    """Content hashes of files, remembered under path, size, mtime and ctime so that a file is read once.

    A changed file has another ctime even where its mtime was set back. The memory is shared between
    processes; without it (read-only folder, say) the hashes are simply computed again.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Open the memory in ``folder``; None keeps it in this process only."""
        self._new: list[tuple[bytes, int, int, int, str]] = []
        self._database = folder / "files.sqlite" if folder is not None else None
        rows = self._query("SELECT path, size, mtime, ctime, hash FROM files")
        self._known: dict[tuple[object, ...], str] = {row[:4]: row[4] for row in rows}

    def __call__(self, path: Path) -> str:
        """Return the hash of a file's bytes."""
        try:
            stat = os.stat(path)
            # Bytes: names need not be valid Unicode.
            signature = (os.fsencode(os.path.abspath(path)), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
            if signature in self._known:
                return self._known[signature]
            with open(path, "rb") as stream:
                digest = hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        except OSError as error:
            raise BadImageError(f"The image {path} cannot be read: {error.strerror}.") from error
        # A file that was written a moment ago may change again within one tick of its file system's clock.
        if time.time_ns() - stat.st_ctime_ns > _TICK_NS:
            self._known[signature] = digest
            self._new.append((*signature, digest))
        return digest

    def save(self) -> None:
        """Add what was hashed since the last call to the shared memory."""
        new, self._new = self._new, []
        if new:
            self._query("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", new)

    def _query(self, statement: str, rows: Sequence[tuple[object, ...]] = ()) -> list[tuple[Any, ...]]:
        if self._database is None:
            return []
        try:
            self._database.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._database, timeout=30)) as connection, connection:
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS files (path BLOB, size INT, mtime INT, ctime INT, hash TEXT, "
                    "PRIMARY KEY (path)) WITHOUT ROWID"
                )
                done = connection.executemany(statement, rows) if rows else connection.execute(statement)
                return done.fetchall()
        except (sqlite3.Error, OSError) as error:
            text = f"Hashes of image files are not remembered: {self._database}: {error}"
            warnings.warn(text, stacklevel=2)
            self._database = None
            return []


class ImageSource(Protocol):
    """Where images come from: files, an archive, a renderer."""

    def name(self, index: int) -> str:
        """Return what a person calls the image: its relative path, say."""

    def identity(self, index: int, hashes: FileHashes) -> str:
        """Return a key that is equal exactly if the pixels are."""

    def load(self, index: int) -> Image.Image:
        """Return the image in RGB, or raise a `BadImageError`."""


@dataclass(frozen=True)
class ImageFiles:
    """Image files below a folder, by their paths relative to it, in their fixed order."""

    root: Path
    paths: tuple[str, ...]

    def name(self, index: int) -> str:
        """Return the path relative to the root."""
        return self.paths[index]

    def identity(self, index: int, hashes: FileHashes) -> str:
        """Return the hash of the file's bytes."""
        return hashes(self.root / self.paths[index])

    def load(self, index: int) -> Image.Image:
        """Decode the file; see `to_rgb` for unusual modes."""
        path = self.root / self.paths[index]
        try:
            with Image.open(path) as image:
                return to_rgb(image)
        except UnidentifiedImageError as error:
            raise BadImageError(f"{path} is not an image file.") from error
        # decoders fail in many ways on broken files: RuntimeError, struct.error, …
        except Exception as error:
            reason = str(error).rstrip(".") or type(error).__name__
            raise BadImageError(f"The image {path} cannot be decoded: {reason}.") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB on load, as CoOp and Tip-Adapter do (open_clip converts after the resize).

    Transparency is dropped, not blended, like theirs. Greyscale of 16 bits and more is scaled to 8 bits; PIL
    alone would clip it to white. Integers and floats of unknown range count as 0 to 255, floats as 0 to 1 and
    both as 0 to 65535 where the image's largest value says so.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        largest, top = values.max(initial=0), 255.0
        if image.mode.startswith("I;16") or largest > 255:
            top = 65535.0
        elif image.mode == "F" and largest <= 1:
            top = 1.0
        return Image.fromarray((values / top * 255).round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


@dataclass(frozen=True)
class ImageSet:
    """A fixed sequence of labelled images.

    Attributes:
        source: Where the images come from.
        indices: Positions in the source.
        labels: Class of each image, (N,), counted from 0.
    """

    source: ImageSource
    indices: tuple[int, ...]
    labels: Tensor

    @classmethod
    def of(cls, source: ImageSource, labels: Sequence[int]) -> ImageSet:
        """Take every image of a source, in order."""
        return cls(source, tuple(range(len(labels))), torch.tensor(list(labels), dtype=torch.long))

    def __len__(self) -> int:
        return len(self.indices)

    def names(self) -> list[str]:
        """Return the names of all images."""
        return [self.source.name(index) for index in self.indices]

    def select(self, positions: Sequence[int]) -> ImageSet:
        """Return the images at these positions."""
        chosen = torch.tensor(list(positions), dtype=torch.long)
        return ImageSet(self.source, tuple(self.indices[i] for i in positions), self.labels[chosen])

    def keep_classes(self, classes: Sequence[int]) -> ImageSet:
        """Return the images of these classes, relabelled by the place of their class in the sequence."""
        place = {label: i for i, label in enumerate(classes)}
        labels = self.labels.tolist()
        kept = self.select([i for i, label in enumerate(labels) if label in place])
        relabelled = torch.tensor([place[label] for label in kept.labels.tolist()], dtype=torch.long)
        return ImageSet(kept.source, kept.indices, relabelled)
