"""The four sets of shifted test images for ImageNet's classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmadapt.data.images import ImageSet
from mmadapt.data.published.folder_index import index_folder
from mmadapt.data.published.imagenet import ImageNetData, class_folders, wnids
from mmadapt.data.published.locate import Home
from mmadapt.data.splits import Splits, subset_classes
from mmadapt.errors import DataNotFoundError


class ImageNetShiftData(ImageNetData):
    """Shifted test images of ImageNet's classes; shots are ImageNet's, drawn as for ``data=imagenet``.

    Where only 200 of the classes occur, shots of these are used, relabelled from 0 in the order of wnids.
    `imagenet_labels` maps the labels back.
    """

    def __init__(
        self,
        *,
        imagenet_folders: Sequence[str],
        imagenet_dir: str | None = None,
        classes_of: str = "imagenet",
        numbered: bool = False,
        **options: Any,
    ) -> None:
        """Bind the places of the shifted images and of ImageNet.

        Args:
            imagenet_folders: Names of ImageNet's folder below the root.
            imagenet_dir: ImageNet's folder itself.
            classes_of: Which wnids occur: of imagenet, imagenet_a or imagenet_r.
            numbered: Whether class folders are numbers, positions among the sorted wnids (ImageNetV2).
            options: See `ImageNetData`.
        """
        super().__init__(**options)
        place = None if imagenet_dir is None else Path(imagenet_dir).expanduser().absolute()
        self.imagenet = Home("imagenet", self.home.root, tuple(imagenet_folders), place)
        self.classes_of, self.numbered = classes_of, numbered

    @property
    def imagenet_labels(self) -> tuple[int, ...]:
        """ImageNet's label of each class that occurs."""
        return tuple(map(wnids().index, wnids(self.classes_of)))

    def kept_classes(self, splits: Splits) -> Sequence[int]:
        """Return ImageNet's labels of the classes that occur, or of the base or new half of them."""
        half = subset_classes(len(self.imagenet_labels), self.subset)
        return self.imagenet_labels[half.start : half.stop]

    def read_splits(self) -> Splits:
        """List ImageNet's training images and the shifted test images, both with ImageNet's labels."""
        train, test = self._read_train(), self._read_shifted()
        self.check_counts(classes=len(self.imagenet_labels), test=len(test))
        return self._splits_of(train, test)

    def _train_folder(self) -> Path | None:
        return self.imagenet.find(("images/train", "train"))

    def _read_shifted(self) -> ImageSet:
        folder = self.home.find(self.image_folders)
        if folder is None:
            raise DataNotFoundError(
                f"{self.name}: no folder {' or '.join(self.image_folders)}. {self.home.searched()}"
            )
        present = map(str, self.imagenet_labels) if self.numbered else wnids(self.classes_of)
        labels = dict(zip(present, self.imagenet_labels, strict=True))
        return class_folders(folder, "", labels, index_folder(folder)[0])
