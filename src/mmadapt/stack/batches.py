"""The batches of several runs, each from its own shots in its own order, gathered at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor

from mmadapt.data.resident import EpochLoader, ResidentData


class Batches:
    """Batches (R, B, D) of R runs with equally many shots; run r gets what its own `EpochLoader` gives it.

    Features are not copied: neighbouring runs on the same features are gathered together. Runs that also have the
    same seed share their order.

    Attributes:
        steps: Steps per epoch.
    """

    def __init__(self, data: Sequence[ResidentData]) -> None:
        """Bind the data of the runs."""
        self._data = list(data)
        self._loaders: dict[tuple[int, int], EpochLoader] = {}
        for one in self._data:
            if _key(one) not in self._loaders:
                self._loaders[_key(one)] = one.train_dataloader()
        self.steps = next(iter(self._loaders.values())).steps_per_epoch
        self._space: dict[int, Tensor] = {}

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the features (R, B, D) and labels (R, B) of each step of an epoch, counted from 0.

        The features are overwritten by the next step's.
        """
        supports = [one.support for one in self._data]
        device, count = supports[0].labels.device, len(supports[0].labels)
        orders = {key: loader.order(epoch) for key, loader in self._loaders.items()}
        rows = torch.stack(
            [view * count + order for order, view in (orders[_key(one)] for one in self._data)]
        )
        rows = rows.to(device)
        labels = torch.stack([s.labels[row % count] for s, row in zip(supports, rows, strict=True)])
        sources = list(self._sources())
        for start in range(0, count, self._data[0].batch_size):
            chosen = rows[:, start : start + self._data[0].batch_size]
            batch = self._batch(chosen.shape[1])
            for runs, features in sources:
                flat = batch[runs].view(-1, batch.shape[-1])
                torch.index_select(features, 0, chosen[runs].reshape(-1), out=flat)
            yield batch, labels[:, start : start + self._data[0].batch_size]

    def keep(self, positions: Sequence[int]) -> None:
        """Go on with some of the runs only."""
        self._data = [self._data[position] for position in positions]
        self._space = {}

    def _sources(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield neighbouring runs on the same features, and these as (V N, D)."""
        start = 0
        for _, group in groupby(self._data, key=lambda one: _key(one)[0]):
            runs = list(group)
            yield slice(start, start + len(runs)), runs[0].support.image_features.flatten(0, 1)
            start += len(runs)

    def _batch(self, size: int) -> Tensor:
        if size not in self._space:
            features = self._data[0].support.image_features
            self._space[size] = features.new_empty(len(self._data), size, features.shape[-1])
        return self._space[size]


def _key(data: ResidentData) -> tuple[int, int]:
    return data.support.image_features.data_ptr(), data.seed
