"""The LightningDataModule behind every data set: splits, shots, class names, and a lock on the test images."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning import LightningDataModule
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mmadapt.data.images import BadImageError, ImageSet
from mmadapt.data.splits import Draw, Splits, Subset, draw, subset_classes
from mmadapt.data.templates import parse_templates, read_prompts
from mmadapt.data.threads import cores, ordered_map
from mmadapt.errors import UserError, one_of, some

log = logging.getLogger(__name__)

Item = tuple[Tensor, Tensor]
Transform = Callable[[Image.Image], Tensor]

MOST_IMAGES = 256
"""Images of a batch at most: recipes that train on features ask for more than a tower takes at once."""


@dataclass(frozen=True)
class ClassSet:
    """What is known of the classes before any image is read.

    Attributes:
        names: One name for each class, in label order.
        templates: Prompts with ``{}`` in place of the name; several are averaged to one text feature.
        texts: Prompts written for each class, used instead of the templates; not of equal number.
    """

    names: tuple[str, ...]
    templates: tuple[str, ...] = ("a photo of a {}.",)
    texts: tuple[tuple[str, ...], ...] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def prompts(self) -> list[list[str]]:
        """Return the prompts of each class, (C, T); underscores in names become spaces, as in CoOp."""
        if self.texts is not None:
            return [list(row) for row in self.texts]
        return [[t.replace("{}", name.replace("_", " ")) for t in self.templates] for name in self.names]


@dataclass(eq=False)
class Images(Dataset[Item]):
    """Decoded images (3, H, W) with their labels; a batch is decoded by several threads at once."""

    images: ImageSet
    transform: Transform
    on_bad_image: Literal["error", "skip"]
    workers: int

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, position: int) -> Item:
        image = self.images.source.load(self.images.indices[position])
        return self.transform(image), self.images.labels[position]

    def __getitems__(self, positions: Sequence[int]) -> list[Item]:
        items = ordered_map(self._item, positions, min(self.workers, len(positions)))
        found = [item for item in items if item is not None]
        if not found:
            raise BadImageError("No image of a batch can be decoded. Repair or remove them.")
        return found

    def _item(self, position: int) -> Item | None:
        try:
            return self[position]
        except BadImageError:
            if self.on_bad_image == "skip":
                return None
            raise


class LockedTestError(RuntimeError):
    """Something asked for test images before the final score."""


class FewShotData(LightningDataModule, ABC):
    """A data set, k shots of it, and its classes. A data set class writes `read_splits` only.

    Attributes:
        classes: Names and templates of the classes in use; available after `setup`.
        train: The k-shot training images.
        val: The validation images, ``min(shots, 4)`` of each class unless told otherwise.
    """

    classes: ClassSet
    train: ImageSet
    val: ImageSet
    transform: Transform | None = None
    """From an image to a tensor (3, H, W); None takes that of the method which is fitted."""

    def __init__(
        self,
        *,
        name: str,
        shots: int,
        split_seed: int,
        templates: str | Sequence[str] = ("a photo of a {}.",),
        subset: Subset = "all",
        val_shots: int | None = None,
        on_bad_image: Literal["error", "skip"] = "error",
        num_workers: int | None = None,
    ) -> None:
        """Remember what to draw; nothing is read before `setup`.

        Args:
            name: Name of the data set in folders and tables.
            shots: Training images per class.
            split_seed: Seed of the draw; the training seed by default.
            templates: Prompts with ``{}`` in place of the class name, the name of an ensemble, or a file; see
                `mmadapt.data.templates`.
            subset: All classes, or the base or the new half of them.
            val_shots: Validation images per class; None means ``min(shots, 4)``.
            on_bad_image: Stop at an image that cannot be decoded, or leave it out, counted and reported.
            num_workers: Threads that decode images, and on a CPU encode them; None takes one per core, 0 none.
        """
        super().__init__()
        for key, value in (("shots", shots), ("data.val_shots", val_shots)):
            if value is not None and value < 1:
                raise UserError(f"{key}={value} makes no sense: at least 1 image per class is needed.")
        if num_workers is not None and num_workers < 0:
            raise UserError(
                f"data.num_workers={num_workers} makes no sense: 0 for none, null for one per core."
            )
        one_of("data.on_bad_image", on_bad_image, ("error", "skip"))
        self.templates, self.prompt_file = parse_templates(templates, name)
        self.name, self.shots, self.split_seed, self.subset = name, shots, split_seed, subset
        self.val_shots: int | None = min(shots, 4) if val_shots is None else val_shots
        self.on_bad_image, self.num_workers = on_bad_image, num_workers
        self._splits: Splits | None = None
        self._test_open = False

    @abstractmethod
    def read_splits(self) -> Splits:
        """Return class names and all images of train, val and test."""

    def setup(self, stage: str = "fit") -> None:
        """Read the splits, draw the shots, keep the wanted half of the classes. Runs on every rank, once.

        ``test`` unlocks the test images; nothing can be fitted on this object after that.
        """
        if stage == "fit" and self._test_open:
            raise LockedTestError(
                "The test images have been opened: nothing is fitted after that. Make a new data module."
            )
        self._test_open = self._test_open or stage == "test"
        if self._splits is not None:
            return
        splits = self.read_splits()
        kept = self.kept_classes(splits)
        self.drawn: Draw = self.draw_shots(splits)
        # Drawn over all classes first, then filtered: the base images are a part of the whole draw (CoCoOp).
        self.train = splits.train.select(self.drawn.train).keep_classes(kept)
        self.val = splits.val.select(self.drawn.val).keep_classes(kept)
        names = tuple(splits.class_names[label] for label in kept)
        ids = tuple(splits.class_ids[label] for label in kept) if splits.class_ids else ()
        texts = read_prompts(self.prompt_file, names, ids) if self.prompt_file else None
        self.classes = ClassSet(names, self.templates, texts)
        self._splits = Splits(names, self.train, self.val, splits.test.keep_classes(kept), ids)
        counts = Counter(self.train.labels.tolist())
        few = {name: counts[i] for i, name in enumerate(names) if counts[i] < self.shots}
        self.short_classes = few if counts else {}
        if self.short_classes:
            listed = some(f"{name} ({count})" for name, count in self.short_classes.items())
            text = "%d of %d classes have fewer than %d training images, all of them are used: %s"
            log.warning(text, len(self.short_classes), len(self.classes), self.shots, listed)

    def kept_classes(self, splits: Splits) -> Sequence[int]:
        """Return the labels of the classes in use, in their order."""
        return subset_classes(len(splits.class_names), self.subset)

    def draw_shots(self, splits: Splits) -> Draw:
        """Draw the training and validation shots over all classes."""
        return draw(splits, self.shots, self.val_shots, self.split_seed)

    def need_shots(self) -> None:
        """Refuse to go on without training images."""
        if not len(self.train):
            raise UserError(f"{self.name} has no training images; only method=zero_shot can run on it.")

    @property
    def test(self) -> ImageSet:
        """The test images, locked before ``setup("test")``."""
        if not self._test_open or self._splits is None:
            raise LockedTestError(
                "The test images are locked until the final score: epochs and hyper-parameters are chosen on val."
            )
        return self._splits.test

    @property
    def class_keys(self) -> tuple[str, ...]:
        """What tells classes of different data sets apart: their ids (wnids), or else their names."""
        assert self._splits is not None
        return self._splits.class_ids or self.classes.names

    def describe(self) -> dict[str, Any]:
        """Return what the result file says about the data."""
        return {
            "draw_sha256": self.drawn.sha256,
            "classes": len(self.classes),
            "train": len(self.train),
            "val": len(self.val),
            "short_classes": self.short_classes,
        }

    def train_dataloader(self) -> DataLoader[Item]:
        """Return batches (B, 3, H, W) and labels (B,) of the shots, shuffled, not augmented."""
        self.need_shots()
        return self._loader(self.train, shuffle=True)

    def val_dataloader(self) -> DataLoader[Item]:
        """Return batches of the validation images."""
        return self._loader(self.val)

    def test_dataloader(self) -> DataLoader[Item]:
        """Return batches of the test images."""
        return self._loader(self.test)

    def predict_dataloader(self) -> DataLoader[Item]:
        """Return batches of the test images, too."""
        return self.test_dataloader()

    def _loader(self, images: ImageSet, *, shuffle: bool = False) -> DataLoader[Item]:
        module: Any = getattr(self.trainer, "lightning_module", None)
        transform = self.transform or getattr(getattr(module, "clip", None), "transform", None)
        if transform is None:
            raise UserError(
                f"{type(self).__name__} has no transform: set data.transform = clip.transform, or fit a method on it."
            )
        workers = cores() if self.num_workers is None else self.num_workers
        dataset = Images(images, transform, self.on_bad_image, workers)
        batch_size = min(getattr(module, "batch_size", MOST_IMAGES), MOST_IMAGES)
        generator = torch.Generator().manual_seed(self.split_seed)  # the order follows seed and epoch alone
        return DataLoader(dataset, batch_size=batch_size, shuffle=shuffle, generator=generator)
