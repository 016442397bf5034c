"""Data sets whose train, val and test are listed in CoOp's ``split_zhou_*.json``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from mmadapt.data.published.base import BenchmarkData
from mmadapt.data.published.locate import best_folder, explain_missing
from mmadapt.data.published.split_json import SplitFile, read_split_file
from mmadapt.data.splits import Splits
from mmadapt.errors import DataNotFoundError


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
        """Read the split file and make sure that its images exist."""
        split = read_split_file(self._find_split_file())
        if twice := [path for path, count in Counter(split.paths()).items() if count > 1]:
            self.note(f"{self.split_file} lists {len(twice)} images more than once, such as {twice[0]}.")
        train, val, test = map(len, split.parts)
        self.check_counts(classes=len(split.class_names), train=train, val=val, test=test)
        if not split.is_published(self.split_sha256) and not self.findings:
            self.note(f"{self.split_file} differs from the published file, numbers will not compare.")
        images = self.image_sets(self._image_folder(split), split.parts)
        return Splits(split.class_names, images[0], images[1], images[2])

    def _find_split_file(self) -> Path:
        found = self.home.find_file(str(Path(self.split_file).expanduser()))
        if found is not None:
            return found
        place = (self.home.existing() or self.home.candidates())[0]
        raise DataNotFoundError(
            f"The split file {self.split_file} of {self.name} was not found, and no other split "
            f"stands in for it. {self.home.searched()} To get only the split: "
            f"python -m mmadapt.data prepare {self.name} --split-only, which puts it into {place}."
        )

    def _image_folder(self, split: SplitFile) -> Path:
        folders = [home / images for home in self.home.candidates() for images in self.image_folders]
        best = best_folder(folders, split.paths())
        if best is not None:
            return best
        if existing := [folder for folder in folders if folder.is_dir()]:
            paths = list(dict.fromkeys(split.paths()))
            raise DataNotFoundError(f"{self.name}: {explain_missing(existing[0], paths, len(paths))}")
        wanted = " or ".join(self.image_folders)
        raise DataNotFoundError(f"{self.name}: no folder {wanted} with its images. {self.home.searched()}")
