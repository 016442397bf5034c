"""Images in memory for methods that change the image tower: decoded and shrunk once, cropped anew every epoch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import torch
from lightning import LightningDataModule
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from mmadapt.clip.transforms import ImageTransform
from mmadapt.data.base import FewShotData
from mmadapt.data.images import BadImageError, ImageSet
from mmadapt.data.threads import cores, ordered_map
from mmadapt.distributed import joined, summed, this_process
from mmadapt.errors import some
from mmadapt.progress import ProgressBar
from mmadapt.training.crops import normalize, random_views
from mmadapt.training.feature_data import BatchLoader, WeightedBatch, share_of

log = logging.getLogger(__name__)

EVAL_BATCH = 100
"""Images per step of validation and test, as in MaPLe and COMMA."""
SIDE = 1.5
"""Limit of a resident image's shorter side as a multiple of the tower's input.

Crops of a tenth of the area are still enlarged less than threefold; ImageNet's 16 shots take 7 GB of host
memory.
"""
_MAX_WORKERS, _AHEAD = 16, 2 * EVAL_BATCH

Batch = tuple[Tensor, Tensor]


class ResidentImages(LightningDataModule):
    """The shots as uint8 images in host memory and, once they are unlocked, the test images, batch by batch.

    Attributes:
        skipped: Images left out because they cannot be decoded, by split.
        test_names: Names of the scored images in the order of the batches, once these were read.
        whole_epochs: Whether a batch for the trainer is a whole epoch, see `mmadapt.training.epoch_fit`.
    """

    whole_epochs = False

    def __init__(
        self,
        data: FewShotData,
        transform: ImageTransform,
        crop_scale: tuple[float, float],
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        validate: bool = True,
    ) -> None:
        """Bind data set, transform and recipe.

        Args:
            data: The data set, after its `setup`.
            transform: Test transform of the backbone; size and normalisation for the views.
            crop_scale: Range of the random crop's area.
            batch_size: Images per training step.
            seed: Seed of order and crops.
            device: Where views are computed and batches go.
            validate: Whether training is interrupted for validation each epoch.
        """
        super().__init__()
        self.data, self.transform, self.crop_scale = data, transform, crop_scale
        self.batch_size, self.seed, self.validate, self.device = batch_size, seed, validate, device
        self.skipped: dict[str, int] = {}

    def setup(self, stage: str = "fit") -> None:
        """Decode the training images, and those of val if they are looked at; for ``test``, unlock the test images."""
        self.data.setup(stage)
        if stage in ("fit", "validate") and not hasattr(self, "_train"):
            self.data.need_shots()
            self._train = list(self._decoded("train", self.data.train, self._shrunk))
            self._val = list(self._decoded("val", self.data.val, self._pixels, True)) if self.validate else []

    def train_dataloader(self) -> ImageEpochLoader | BatchLoader:
        """Return the loader of the training batches."""

        def loader(shard: tuple[int, int] = (0, 1)) -> ImageEpochLoader:
            return ImageEpochLoader(
                self._train, self._augment, self.batch_size, self.seed, self.device, shard
            )

        return loader(this_process()) if self.whole_epochs else BatchLoader(loader(), this_process())

    def val_dataloader(self) -> ImageEvalLoader | tuple[()]:
        """Return the validation batches; none if no epoch is chosen by them."""

        def pixels() -> Iterator[Batch]:
            return ((normalize(image, self.transform), label) for image, label in self._val)

        return ImageEvalLoader(pixels, len(self._val), self.device) if self.validate else ()

    def test_dataloader(self) -> ImageEvalLoader:
        """Return the test batches; the images are read as they are asked for.

        Raises:
            LockedTestError: Before ``setup("test")``.
        """
        images = self.data.test
        return ImageEvalLoader(
            lambda: self._decoded("test", images, self.transform, True), len(images), self.device
        )

    def predict_dataloader(self) -> ImageEvalLoader:
        """Return the test batches, too."""
        return self.test_dataloader()

    def _augment(self, images: list[Tensor], generator: torch.Generator, share: slice) -> Tensor:
        return random_views(images, self.transform, self.crop_scale, generator, self.device, share)

    def _shrunk(self, image: Image.Image) -> Tensor:
        """Return the whole image as uint8 (3, h, w), its shorter side limited."""
        factor = SIDE * min(self.transform.size) / min(image.size)
        if factor < 1:
            width, height = (max(1, round(side * factor)) for side in image.size)
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        pixels: Tensor = pil_to_tensor(image)
        return pixels

    def _pixels(self, image: Image.Image) -> Tensor:
        """Return the test view as uint8, exactly: the transform's last steps are undone."""
        mean, std = (
            torch.tensor(values)[:, None, None] for values in (self.transform.mean, self.transform.std)
        )
        return ((self.transform(image) * std + mean) * 255).round().to(torch.uint8)

    def _decoded(
        self, kind: str, images: ImageSet, function: Callable[[Image.Image], Tensor], shared_out: bool = False
    ) -> Iterator[Batch]:
        """Yield each image that can be decoded with its label, or this process's share, and count the others."""
        bar, bad = ProgressBar(f"reading {self.data.name} {kind}", len(images)), []
        names = []
        workers = cores() if self.data.num_workers is None else self.data.num_workers
        order = sorted(range(len(images)), key=images.indices.__getitem__)  # sources read ahead
        if shared_out:
            order = order[this_process()[0] :: this_process()[1]]

        def decode(position: int) -> Tensor | None:
            try:
                return function(images.source.load(images.indices[position]))
            except BadImageError:
                if self.data.on_bad_image != "skip":
                    raise
                return None

        decoded = ordered_map(decode, order, min(_MAX_WORKERS, workers), ahead=_AHEAD)
        try:
            for position, pixels in zip(order, decoded, strict=True):
                bar.advance()
                name = images.source.name(images.indices[position])
                if pixels is not None:
                    names.append(name)
                    yield pixels, images.labels[position]
                    continue
                bad.append(name)
        finally:
            decoded.close()
            bar.close()
        self.skipped[kind] = summed(len(bad)) if shared_out else len(bad)
        if kind == "test":
            self.test_names = joined(names)
        if bad:
            log.warning("%d %s images cannot be decoded and are left out: %s", len(bad), kind, some(bad))


class ImageEpochLoader:
    """A data loader whose one item is a whole epoch, an iterator over shuffled batches of random views.

    Order and crops depend on seed and epoch alone; processes divide a batch as in `EpochLoader`.
    """

    def __init__(
        self,
        images: list[Batch],
        augment: Callable[[list[Tensor], torch.Generator, slice], Tensor],
        batch_size: int,
        seed: int,
        device: torch.device,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        """Hold images (3, h, w) with their labels, and what makes a batch of views of them."""
        self.images, self.augment, self.batch_size, self.seed = images, augment, batch_size, seed
        self.device, self.epoch, self.shard = device, 0, shard
        self.steps_per_epoch = -(-len(images) // batch_size)

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Iterator[WeightedBatch]]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        yield self._batches(epoch)

    def _batches(self, epoch: int) -> Iterator[WeightedBatch]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        for rows in torch.split(torch.randperm(len(self.images), generator=generator), self.batch_size):
            images, labels = zip(*(self.images[row] for row in rows.tolist()), strict=True)
            share, weight = share_of(len(rows), *self.shard)
            views = self.augment(list(images), generator, share)
            yield (views, torch.stack(labels)[share].to(self.device)), weight


class ImageEvalLoader:
    """Batches of test views in their order, each image once."""

    def __init__(self, images: Callable[[], Iterator[Batch]], count: int, device: torch.device) -> None:
        """Bind a source of ``count`` views (3, H, W) and labels."""
        self.images, self.count, self.device = images, count, device

    def __len__(self) -> int:
        return -(-self.count // EVAL_BATCH)

    def __iter__(self) -> Iterator[Batch]:
        batch: list[Batch] = []
        for item in self.images():
            batch.append(item)
            if len(batch) == EVAL_BATCH:
                yield self._stacked(batch)
                batch = []
        if batch:
            yield self._stacked(batch)

    def _stacked(self, batch: list[Batch]) -> Batch:
        views, labels = zip(*batch, strict=True)
        return torch.stack(views).to(self.device), torch.stack(labels).to(self.device)
