"""Data sets whose train, val and test are listed in files: CoOp's ``split_zhou_*.json``, and FGVC's own lists."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from mmadapt.data.published.base import BenchmarkData
from mmadapt.data.published.locate import SplitFile, best_folder, explain_missing, read_split_file
from mmadapt.data.splits import Splits
from mmadapt.errors import DataNotFoundError, UserError, did_you_mean
from mmadapt.files import read_lines

VARIANTS = "variants.txt"


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


class FgvcData(BenchmarkData):
    """Aircraft variants; labels are line numbers of ``variants.txt``, as in CoOp.

    The photographer's banner below each image is not cut off; nobody's code for this benchmark does.
    """

    def read_splits(self) -> Splits:
        """Read the official lists and make sure that their images exist."""
        variants = self.home.find([VARIANTS])
        if variants is None:
            raise DataNotFoundError(f"{self.name}: no {VARIANTS} was found. {self.home.searched()}")
        folder, names = variants.parent, read_lines(variants)
        labels = {name: label for label, name in enumerate(names)}
        files = [folder / f"images_variant_{part}.txt" for part in ("train", "val", "test")]
        parts = [self._read_list(file, labels) for file in files]
        self.check_counts(classes=len(names), train=len(parts[0]), val=len(parts[1]), test=len(parts[2]))
        place = next((folder / name for name in self.image_folders if (folder / name).is_dir()), None)
        if place is None:
            raise DataNotFoundError(
                f"{self.name}: no folder {' or '.join(self.image_folders)} beside {variants}. Unpack the "
                f"whole archive; python -m mmadapt.data prepare {self.name} does it."
            )
        images = self.image_sets(place, parts)
        return Splits(tuple(names), images[0], images[1], images[2])

    def _read_list(self, file: Path, labels: dict[str, int]) -> list[tuple[str, int]]:
        if not file.is_file():
            raise DataNotFoundError(
                f"{self.name}: the list {file} is missing. Unpack the whole archive again."
            )
        images: list[tuple[str, int]] = []
        for number, _, variant in (line.partition(" ") for line in read_lines(file)):
            if variant not in labels:
                raise UserError(
                    f"{file}: the variant {variant!r} is not in {VARIANTS}{did_you_mean(variant, labels)}."
                )
            images.append((f"{number}.jpg", labels[variant]))
        return images
