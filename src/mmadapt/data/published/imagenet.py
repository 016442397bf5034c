"""ImageNet; its shifted test sets are in `mmadapt.data.published.imagenet_shift`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from mmadapt.data.images import ImageFiles, ImageSet
from mmadapt.data.published.base import BenchmarkData
from mmadapt.data.published.folder_index import FolderIndex, index_folder
from mmadapt.data.published.imagenet_classes import class_names, wnids
from mmadapt.data.published.locate import Home
from mmadapt.data.splits import Splits
from mmadapt.errors import DataNotFoundError, UserError, one_of

_VAL_SORTED = (
    "Sort them into one folder per class: put ILSVRC2012_devkit_t12.tar.gz and ILSVRC2012_img_val.tar into "
    "the data set's folder and run python -m mmadapt.data prepare imagenet, or run valprep.sh "
    "(github.com/soumith/imagenetloader.torch) inside the val folder."
)


class ImageNetData(BenchmarkData):
    """ImageNet: the official validation images are the test set, shots come from the training images.

    Shots are drawn from sorted file names, which is Tip-Adapter's draw for ``split_seed=1``. CoOp's own
    cannot be rebuilt: it follows the order of a directory listing.
    """

    def __init__(
        self,
        *,
        val_source: Literal["train", "test"] = "train",
        cache: str | None = None,
        **options: Any,
    ) -> None:
        """Bind a place.

        Args:
            val_source: Where validation images come from: ``train`` draws ``min(shots, 4)`` training images
                that are not shots; ``test`` takes all test images, as CoOp and Tip-Adapter do, and lets
                hyper-parameters and epochs be chosen on what is scored.
            cache: Folder where the list of the 1.28 million files is remembered.
            options: See `BenchmarkData`.

        Raises:
            UserError: If a value makes no sense.
        """
        one_of("data.val_source", val_source, ("train", "test"))
        val_shots = options.get("val_shots")
        super().__init__(**options)
        self._val_source = val_source
        self.val_shots = None if val_source == "test" else val_shots or min(self.shots, 4)
        self.cache = None if cache is None else Path(cache).expanduser().absolute()

    @property
    def val_source(self) -> str:
        """Which images the validation shots come from."""
        return self._val_source

    def prepare_data(self) -> None:
        """Index the training images once, so that every process finds the index in the cache."""
        if self.cache is not None and (train := self._train_folder()) is not None:
            index_folder(train, self.cache)

    def read_splits(self) -> Splits:
        """List the images of all 1000 classes.

        Raises:
            DataNotFoundError: If the data set or a class folder is missing.
            UserError: If the validation images are not sorted into class folders.
        """
        train, val = self._read_train(), self._read_val()
        self.check_counts(
            classes=len(wnids()), train=len(train) or self.counts.get("train", 0), test=len(val)
        )
        return self._splits_of(train, val)

    def need_shots(self) -> None:
        """Called before the training images are used.

        Raises:
            DataNotFoundError: If they are not there.
        """
        if not len(self.train):
            raise DataNotFoundError(
                f"{self.name}: shots come from ImageNet's training images, and no folder train was found. "
                f"{self.imagenet.searched()} Only method=zero_shot runs without them."
            )

    def _splits_of(self, train: ImageSet, test: ImageSet) -> Splits:
        if self._val_source == "test":
            self.note("validation images are the test images (data.val_source=test): scores are optimistic.")
            return Splits(class_names(), train, test, test, wnids())
        return Splits(class_names(), train, train, test, wnids(), val_from_train=True)

    @property
    def imagenet(self) -> Home:
        """Where ImageNet itself is looked for."""
        return self.home

    def _train_folder(self) -> Path | None:
        return self.imagenet.find(f"{images}/train" for images in self.image_folders)

    def _read_train(self) -> ImageSet:
        folder = self._train_folder()
        if folder is None:
            return ImageSet.of(ImageFiles(self.imagenet.candidates()[0], ()), [])
        return _class_folders(folder, index_folder(folder, self.cache))

    def _read_val(self) -> ImageSet:
        folder = self.home.find(f"{images}/val" for images in self.image_folders)
        if folder is None:
            raise DataNotFoundError(f"{self.name}: no folder of validation images. {self.home.searched()}")
        index = index_folder(folder)
        if index.loose and not any(index.folders.values()):
            raise UserError(
                f"{len(index.loose)} images lie directly in {folder}, such as {index.loose[0]}, "
                f"so their classes are unknown. {_VAL_SORTED}"
            )
        return _class_folders(folder, index)


def _class_folders(folder: Path, index: FolderIndex) -> ImageSet:
    """Return all images in the order of wnids and file names; paths start with ``train/`` or ``val/``."""
    check_folders(folder, index, wnids())
    paths: list[str] = []
    labels: list[int] = []
    for label, wnid in enumerate(wnids()):
        prefix, names = f"{folder.name}/{wnid}/", index.folders[wnid]
        paths += [prefix + name for name in names]
        labels += [label] * len(names)
    return ImageSet.of(ImageFiles(folder.parent, tuple(paths)), labels)


def check_folders(folder: Path, index: FolderIndex, expected: Iterable[str]) -> None:
    """Refuse missing and empty class folders: labels must not shift, and no class may lack images."""
    expected = list(expected)
    missing = [name for name in expected if name not in index.folders]
    empty = [name for name in expected if name in index.folders and not index.folders[name]]
    foreign = sorted(set(index.folders) - set(expected))
    for names, what in ((missing, "are missing"), (empty, "hold no image")):
        if names:
            other = f" Found instead: {', '.join(foreign[:5])}." if foreign else ""
            raise DataNotFoundError(
                f"{len(names)} of {len(expected)} class folders {what} in {folder}: {', '.join(names[:5])}"
                f"{', …' if len(names) > 5 else ''}.{other} "
                "Scores without them would not be ImageNet's: unpack the archive again."
            )
