"""Batches of cached features held in memory: no worker processes, no item loader."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from lightning import LightningDataModule
from torch import Tensor

from mmadapt.data.base import FewShotData
from mmadapt.distributed import joined, this_process
from mmadapt.features.encoder import FeatureEncoder, FeatureSet, Views, encode_split

EVAL_BATCH = 2048
"""Images scored at once: products are as fast as with more, and a cache of 16,000 shots takes 0.4 GB, not 1.6."""

Batch = tuple[Tensor, Tensor]
WeightedBatch = tuple[Batch, float]
"""Inputs and labels of this process's share of a batch, and the weight of its loss: 1 on a single device."""


class WholeEpochs(Protocol):
    """A data loader whose one item is a whole epoch."""

    steps_per_epoch: int
    epoch: int

    def __iter__(self) -> Iterator[Iterator[WeightedBatch]]: ...


class EpochLoader:
    """A data loader whose one item is a whole epoch, an iterator over shuffled batches.

    In epoch e image i shows view ``(start_i + e) mod V``: every view is used equally often, as fresh
    augmentation would use them, and the order depends on seed and epoch alone. In a distributed run the
    processes divide each batch; with the weights of `share_of`, the mean of their gradients is the whole batch's.
    """

    def __init__(
        self, features: FeatureSet, batch_size: int, seed: int, shard: tuple[int, int] = (0, 1)
    ) -> None:
        """Hold the features (V, N, D) and labels (N,), and which process of how many this is."""
        self.features, self.batch_size, self.seed, self.epoch = features, batch_size, seed, 0
        self.shard = shard
        self.steps_per_epoch = -(-len(features.labels) // batch_size)
        views, count = features.image_features.shape[:2]
        self._start = torch.randint(views, (count,), generator=torch.Generator().manual_seed(seed))

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Iterator[WeightedBatch]]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        yield self._batches(epoch)

    def order(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Return the images of an epoch in their order and the view of each, (N,) and (N,), on the CPU."""
        views, count = self.features.image_features.shape[:2]
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(count, generator=generator)
        return order, ((self._start + epoch) % views)[order]

    def _batches(self, epoch: int) -> Iterator[WeightedBatch]:
        features, labels = self.features
        order, view = (part.to(features.device) for part in self.order(epoch))
        for rows, chosen in zip(order.split(self.batch_size), view.split(self.batch_size), strict=True):
            share, weight = share_of(len(rows), *self.shard)
            yield (features[chosen[share], rows[share]], labels[rows[share]]), weight


def share_of(size: int, rank: int, world_size: int) -> tuple[slice, float]:
    """Return a process's share of a batch and the weight of its mean loss.

    The mean over processes of the weighted means is the mean over the batch. A process that gets nothing
    takes the first image with weight 0, so that it takes part in the exchange of gradients.
    """
    share = slice(rank, size, world_size)
    count = len(range(size)[share])
    return (share, count * world_size / size) if count else (slice(0, 1), 0.0)


class BatchLoader:
    """The same batches one by one, for a trainer that is to see each of them.

    Processes get shares of equal number, without weights: what is left over at the end of a batch is not seen.
    """

    def __init__(self, epochs: WholeEpochs, shard: tuple[int, int] = (0, 1)) -> None:
        """Bind a loader of whole epochs, and which process of how many this is."""
        self.epochs, self.shard = epochs, shard

    def __len__(self) -> int:
        return self.epochs.steps_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        rank, world_size = self.shard
        for (inputs, labels), _ in next(iter(self.epochs)):
            even = len(labels) - len(labels) % world_size
            yield inputs[rank:even:world_size], labels[rank:even:world_size]


class EvalLoader:
    """Batches of features in their order, each image once over all processes."""

    def __init__(
        self, features: FeatureSet, batch_size: int = EVAL_BATCH, shard: tuple[int, int] = (0, 1)
    ) -> None:
        """Hold the features (1, N, D) and labels (N,), this process's share of them if there are several."""
        if shard[1] > 1:
            mine = torch.arange(shard[0], len(features.labels), shard[1], device=features.labels.device)
            features = FeatureSet(features.image_features[:, mine], features.labels[mine])
        self.features, self.batch_size = features, batch_size

    def __len__(self) -> int:
        return -(-len(self.features.labels) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        image_features, labels = self.features.image_features[0], self.features.labels
        yield from zip(image_features.split(self.batch_size), labels.split(self.batch_size), strict=True)


class ResidentData(LightningDataModule):
    """The features of a data set's shots and, once it is unlocked, of its test images.

    Attributes:
        support: Training features (V, N, D), in the order of the draw.
        val_features: Validation features (1, N, D).
        whole_epochs: Whether a batch for the trainer is a whole epoch, see `mmadapt.training.epoch_fit`.
        skipped: Images left out because they cannot be decoded, by split.
        test_names: Names of the scored images in their order, once the loader is made.
    """

    support: FeatureSet
    val_features: FeatureSet
    whole_epochs = False

    def __init__(
        self,
        data: FewShotData,
        encoder: FeatureEncoder,
        views: Views = Views(),
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        validate: bool = True,
    ) -> None:
        """Bind data set, encoder and the views that the method wants.

        Args:
            data: The data set, after its `setup`.
            encoder: Encodes what the store lacks.
            views: Views of each training image.
            batch_size: Images per training step.
            seed: Seed of the batch order.
            device: Where the features are held.
            validate: Whether training is interrupted for validation each epoch.
        """
        super().__init__()
        self.data, self.encoder, self.views = data, encoder, views
        self.batch_size, self.seed = batch_size, seed
        self.validate, self.device = validate, device
        self.skipped: dict[str, int] = {}

    def setup(self, stage: str = "fit") -> None:
        """Encode the training and validation images; for ``test``, unlock the test images."""
        self.data.setup(stage)
        if stage in ("fit", "validate") and not hasattr(self, "support"):
            self.data.need_shots()
            self.support = self._encode("train", self.views)
            self.val_features = self._encode("val")

    def train_dataloader(self) -> EpochLoader | BatchLoader:
        """Return the loader of the training batches."""
        if self.whole_epochs:
            return EpochLoader(self.support, self.batch_size, self.seed, this_process())
        return BatchLoader(EpochLoader(self.support, self.batch_size, self.seed), this_process())

    def val_dataloader(self) -> EvalLoader | tuple[()]:
        """Return the validation batches; none if no epoch is chosen by them."""
        return EvalLoader(self.val_features, shard=this_process()) if self.validate else ()

    def test_dataloader(self) -> EvalLoader:
        """Return the test batches.

        Raises:
            LockedTestError: Before ``setup("test")``.
        """
        return EvalLoader(self._encode("test"), shard=this_process())

    def predict_dataloader(self) -> EvalLoader:
        """Return the test batches, too."""
        return self.test_dataloader()

    def _encode(self, kind: str, views: Views = Views()) -> FeatureSet:
        images = getattr(self.data, kind)
        features, bad = encode_split(self.encoder, self.data, images, kind, views)
        self.skipped[kind] = len(bad)
        if kind == "test":
            left_out, (rank, world_size) = set(bad), this_process()
            names = [name for i, name in enumerate(images.names()) if i not in left_out]
            self.test_names = joined(names[rank::world_size])
        return FeatureSet(features.image_features.to(self.device), features.labels.to(self.device))
