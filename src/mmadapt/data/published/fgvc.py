"""FGVC Aircraft in its official split by variant."""

from __future__ import annotations

from pathlib import Path

from mmadapt.data.published.base import BenchmarkData
from mmadapt.data.splits import Splits
from mmadapt.errors import DataNotFoundError, UserError, did_you_mean
from mmadapt.files import read_lines

VARIANTS = "variants.txt"


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
