"""`data=folder`: your own images, as a tree of class folders or a CSV."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from mmadapt.data.base import FewShotData
from mmadapt.data.folder.listing import Listed, composed, list_csv, list_tree
from mmadapt.data.images import ImageFiles, ImageSet
from mmadapt.data.splits import Splits, split_off
from mmadapt.errors import DataNotFoundError, UserError, did_you_mean, some
from mmadapt.files import read_json, read_lines

log = logging.getLogger(__name__)


class FolderData(FewShotData):
    """Images in one folder per class, with or without train/val/test folders, or listed in a CSV.

    Classes are in the order of their folder names (as numbers if all of them are), whatever names
    ``classnames.json`` or ``classnames.txt`` gives them. What the data set does not split itself is split by
    the hash of each image's path, independently of the seed: else test images of one seed would be training
    images of another.
    """

    def __init__(
        self,
        *,
        root: str,
        val_share: float = 0.2,
        test_share: float = 0.3,
        templates: Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        """Bind a folder or CSV.

        Args:
            root: The folder, or a CSV with the columns ``path,label[,split]``.
            val_share: Share of each class's images for val, where the data set has no val split.
            test_share: Share of each class's images for test, where the data set has no test split.
            templates: Prompts; None takes the lines of ``templates.txt`` beside the images, if there is one.
            options: See `FewShotData`.
        """
        if not (val_share > 0 and test_share > 0 and val_share + test_share < 1):
            raise UserError(
                f"data.val_share={val_share} and data.test_share={test_share} must be above 0, "
                "their sum below 1: train, val and test all need images. The defaults are 0.2 and 0.3."
            )
        self.root = Path(root).expanduser().absolute()
        self.val_share, self.test_share = val_share, test_share
        self._folder = self.root.parent if self.root.is_file() else self.root
        file = self._folder / "templates.txt"
        if templates is None and file.is_file():
            templates = [composed(line) for line in read_lines(file)]
        if templates is not None:
            options["templates"] = templates
        super().__init__(**options)

    def read_splits(self) -> Splits:
        """List the images and split what the data set does not split itself."""
        images = self._list()
        labels = sort_labels({image.label for image in images})
        if len(labels) < 2:
            raise UserError(
                f"{self.root} has only the class {labels[0]!r}: nothing to tell apart. "
                "Set data.root=… to the folder that holds all class folders."
            )
        images = self._split(images)
        place = {label: i for i, label in enumerate(labels)}
        images.sort(key=lambda image: (place[image.label], image))
        source = ImageFiles(self._folder, tuple(image.path for image in images))
        everything = ImageSet.of(source, [place[image.label] for image in images])
        parts: dict[str, ImageSet] = {}
        for split in ("train", "val", "test"):
            parts[split] = everything.select([i for i, image in enumerate(images) if image.split == split])
            self._check(split, parts[split], labels)
        names = read_class_names(self._folder, labels)
        return Splits(names, parts["train"], parts["val"], parts["test"])

    def _list(self) -> list[Listed]:
        if self.root.is_dir():
            return list_tree(self.root)
        if not self.root.exists():
            parent = self.root.parent
            near = [path.name for path in parent.iterdir()] if parent.is_dir() else []
            raise DataNotFoundError(
                f"Dataset {self.name!r} not found: no folder or CSV {self.root}"
                f"{did_you_mean(self.root.name, near)}. Set data.root=… to a folder of class folders, "
                "or to a CSV with the columns path,label."
            )
        if self.root.suffix.lower() != ".csv":
            raise UserError(
                f"data.root={self.root} is neither a folder nor a .csv file. Unpack an archive first."
            )
        return list_csv(self.root)

    def _split(self, images: list[Listed]) -> list[Listed]:
        """Split off what is missing, from train or from everything; the images must be sorted."""
        split = [image for image in images if image.split in ("val", "test")]
        given = {image.split for image in split}
        test_share = 0.0 if "test" in given else self.test_share
        val_share = 0.0 if "val" in given else self.val_share
        pool = [image for image in images if image.split in (None, "train")]
        for label, members in groupby(pool, key=lambda image: image.label):
            of_class = list(members)
            parts = split_off([f"{label}/{image.key}" for image in of_class], test_share, val_share)
            split += [replace(image, split=part) for image, part in zip(of_class, parts, strict=True)]
        return split

    def _check(self, split: str, images: ImageSet, labels: Sequence[str]) -> None:
        present = set(images.labels.tolist())
        absent = [label for i, label in enumerate(labels) if i not in present]
        what = f"{len(absent)} of {len(labels)} classes in {self.root} have no {split} images: {some(absent)}"
        if absent and (split == "train" or not present):
            raise UserError(f"{what}. Add images, or remove the class from every split.")
        if absent:
            log.warning("%s", what)


def sort_labels(labels: set[str]) -> list[str]:
    """Return labels in order: 2 before 10 if all of them are numbers, else by their characters."""
    if all(label.isascii() and label.isdigit() for label in labels):
        return sorted(labels, key=lambda label: (int(label), label))
    return sorted(labels)


def read_class_names(folder: Path, labels: Sequence[str]) -> tuple[str, ...]:
    """Return a name for each label: from ``classnames.json`` or ``classnames.txt`` in a folder, or the label.

    JSON holds ``{"label": "name"}`` or a list of names in the order of the labels. Text holds lines
    ``label name of the class`` (with a tab between them if labels have spaces), or one name per line in the
    order of the labels. A mapping must name every label and may hold more. The file never changes the order.
    """
    files = [file for name in ("classnames.json", "classnames.txt") if (file := folder / name).is_file()]
    if not files:
        return tuple(labels)
    if len(files) > 1:
        raise UserError(f"{folder} has both classnames.json and classnames.txt. Keep one.")
    file = files[0]
    entries = _from_json(file) if file.suffix == ".json" else _from_text(file, labels)
    if isinstance(entries, dict):
        if absent := [label for label in labels if label not in entries]:
            spare = set(entries) - set(labels)
            raise UserError(
                f"{file} has no name for {len(absent)} of {len(labels)} classes: {some(absent)}"
                f"{did_you_mean(absent[0], spare)}. Add them; after a label with spaces put a tab."
            )
        entries = [entries[label] for label in labels]
    elif len(entries) != len(labels):
        raise UserError(
            f"{file} holds {len(entries)} names for {len(labels)} classes ({some(labels)}). "
            "Write one name per class in this order, or the class folder before each name."
        )
    else:
        pairs = zip(map(composed, entries), labels, strict=True)
        if moved := [name for name, label in pairs if name != label and name in labels]:
            raise UserError(
                f"{file} names class folders in another order than {some(labels)}: {some(moved)}. "
                "Write the class folder before each name."
            )
    if twice := [name for name, count in Counter(entries).items() if count > 1]:
        log.warning("%s gives several classes one name: %s", file, some(twice))
    return tuple(entries)


def _from_json(file: Path) -> dict[str, str] | list[str]:
    content = read_json(file, "Correct it.")
    names = list(content.values()) if isinstance(content, dict) else content
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        raise UserError(f'{file} must hold {{"folder": "name", …}} or a list of names, none of them empty.')
    names = [name.strip() for name in names]
    return dict(zip(map(composed, content), names, strict=True)) if isinstance(content, dict) else names


def _from_text(file: Path, labels: Sequence[str]) -> dict[str, str] | list[str]:
    lines = list(map(composed, read_lines(file)))
    parts = [line.split("\t", 1) if "\t" in line else line.split(maxsplit=1) for line in lines]
    names = {part[0].strip(): part[-1].strip() for part in parts}
    return names if names.keys() & set(labels) else lines
