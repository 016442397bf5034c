"""ImageNet, and the four sets of shifted test images for its classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from mmadapt.data.images import ImageFiles, ImageSet
from mmadapt.data.published.base import BenchmarkData
from mmadapt.data.published.folder_index import index_folder
from mmadapt.data.published.locate import Home
from mmadapt.data.splits import Splits, subset_classes
from mmadapt.errors import DataNotFoundError, UserError, one_of, some

_VAL_SORTED = (
    "Sort them into one folder per class: put ILSVRC2012_devkit_t12.tar.gz and ILSVRC2012_img_val.tar into "
    "the data set's folder and run python -m mmadapt.data prepare imagenet, or run valprep.sh "
    "(github.com/soumith/imagenetloader.torch) inside the val folder."
)


@cache
def wnids(subset: str = "imagenet") -> tuple[str, ...]:
    """Return sorted wnids: of ``imagenet`` (1000), or the 200 each of ``imagenet_a`` and ``imagenet_r``.

    They are timm's lists, read without importing timm.
    """
    spec = find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("timm is not installed, which open_clip requires: pip install timm")
    folder = Path(spec.submodule_search_locations[0]) / "data" / "_info"
    return tuple((folder / f"{subset}_synsets.txt").read_text(encoding="utf-8").split())


def class_names() -> tuple[str, ...]:
    """Return CLIP's name for each of the 1000 wnids; "missile" and "sunglasses" name two classes each."""
    from open_clip import IMAGENET_CLASSNAMES

    return tuple(IMAGENET_CLASSNAMES)


class ImageNetData(BenchmarkData):
    """ImageNet: the official validation images are the test set, shots come from the training images.

    Shots are drawn from sorted file names, which is Tip-Adapter's draw for ``split_seed=1``. CoOp's own
    cannot be rebuilt: it follows the order of a directory listing.
    """

    def __init__(
        self, *, val_source: Literal["train", "test"] = "train", cache: str | None = None, **options: Any
    ) -> None:
        """Bind a place.

        Args:
            val_source: Where validation images come from: ``train`` draws ``min(shots, 4)`` training images
                that are not shots; ``test`` takes all test images, as CoOp and Tip-Adapter do, and lets
                hyper-parameters and epochs be chosen on what is scored.
            cache: Folder where the list of the 1.28 million files is remembered.
            options: See `BenchmarkData`.
        """
        one_of("data.val_source", val_source, ("train", "test"))
        val_shots = options.get("val_shots")
        super().__init__(**options)
        self.val_source = val_source
        self.val_shots = None if val_source == "test" else val_shots or min(self.shots, 4)
        self.cache = None if cache is None else Path(cache).expanduser().absolute()
        self.imagenet = self.home

    def prepare_data(self) -> None:
        """Index the training images once, so that every process finds the index in the cache."""
        if self.cache is not None and (train := self._train_folder()) is not None:
            index_folder(train, self.cache)

    def read_splits(self) -> Splits:
        """List the images of all 1000 classes."""
        train, val = self._read_train(), self._read_val()
        counted = len(train) or self.counts.get("train", 0)
        self.check_counts(classes=len(wnids()), train=counted, test=len(val))
        return self._splits_of(train, val)

    def need_shots(self) -> None:
        """Refuse to go on without training images."""
        if not len(self.train):
            raise DataNotFoundError(
                f"{self.name}: shots come from ImageNet's training images, and no folder train was found. "
                f"{self.imagenet.searched()} Only method=zero_shot runs without them."
            )

    def _splits_of(self, train: ImageSet, test: ImageSet) -> Splits:
        if self.val_source == "test":
            self.note("validation images are the test images (data.val_source=test): scores are optimistic.")
            return Splits(class_names(), train, test, test, wnids())
        return Splits(class_names(), train, train, test, wnids(), val_from_train=True)

    def _train_folder(self) -> Path | None:
        return self.imagenet.find(f"{images}/train" for images in self.image_folders)

    def _read_train(self) -> ImageSet:
        folder = self._train_folder()
        if folder is None:
            return ImageSet.of(ImageFiles(self.imagenet.candidates()[0], ()), [])
        return class_folders(folder.parent, "train/", _labels(), index_folder(folder, self.cache)[0])

    def _read_val(self) -> ImageSet:
        folder = self.home.find(f"{images}/val" for images in self.image_folders)
        if folder is None:
            raise DataNotFoundError(f"{self.name}: no folder of validation images. {self.home.searched()}")
        folders, loose = index_folder(folder)
        if loose and not any(folders.values()):
            raise UserError(
                f"{len(loose)} images lie directly in {folder}, such as {loose[0]}, "
                f"so their classes are unknown. {_VAL_SORTED}"
            )
        return class_folders(folder.parent, "val/", _labels(), folders)


def _labels() -> dict[str, int]:
    return {wnid: label for label, wnid in enumerate(wnids())}


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


def class_folders(
    root: Path, inner: str, labels: Mapping[str, int], folders: Mapping[str, Sequence[str]]
) -> ImageSet:
    """Return the images of the class folders in ``root/inner``, in the order of ``labels``.

    Missing and empty class folders are refused: labels must not shift, and no class may lack images.
    """
    missing = [name for name in labels if name not in folders]
    empty = [name for name in labels if folders.get(name) == []]
    foreign = sorted(set(folders) - set(labels))
    for names, what in ((missing, "are missing"), (empty, "hold no image")):
        if names:
            other = f" Found instead: {', '.join(foreign[:5])}." if foreign else ""
            raise DataNotFoundError(
                f"{len(names)} of {len(labels)} class folders {what} in {root / inner}: {some(names)}.{other} "
                "Scores without them would not be ImageNet's: unpack the archive again."
            )
    paths = tuple(f"{inner}{name}/{image}" for name in labels for image in folders[name])
    of_image = [label for name, label in labels.items() for _ in folders[name]]
    return ImageSet.of(ImageFiles(root, paths), of_image)
