"""The batches of several runs, each from its own shots in its own order, gathered at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mmadapt.data.resident import EpochLoader, ResidentData


class Batches:
    """Batches (R, B, D) of R runs with equally many shots; run r gets what its own `EpochLoader` gives it.

    Runs on the same features share them, and runs that also have the same seed share their order.

    Attributes:
        steps: Steps per epoch.
    """

    def __init__(self, data: Sequence[ResidentData]) -> None:
        """Join the features of the runs; features that several hold are taken once."""
        self._loaders: dict[tuple[int, int], EpochLoader] = {}
        self._keys: list[tuple[int, int]] = []
        starts: dict[int, tuple[int, int]] = {}
        features: list[Tensor] = []
        labels: list[Tensor] = []
        for one in data:
            key = (one.support.image_features.data_ptr(), one.seed)
            if key[0] not in starts:
                starts[key[0]] = sum(map(len, features)), sum(map(len, labels))
                features.append(one.support.image_features.flatten(0, 1))
                labels.append(one.support.labels)
            if key not in self._loaders:
                self._loaders[key] = one.train_dataloader()
            self._keys.append(key)
        self._starts = starts
        self._features = features[0] if len(features) == 1 else torch.cat(features)
        self._labels = labels[0] if len(labels) == 1 else torch.cat(labels)
        self._count, self._size = len(labels[0]), data[0].batch_size
        self.steps = next(iter(self._loaders.values())).steps_per_epoch

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the features (R, B, D) and labels (R, B) of each step of an epoch, counted from 0."""
        rows = {}
        for key in dict.fromkeys(self._keys):
            first_feature, first_label = self._starts[key[0]]
            order, view = self._loaders[key].order(epoch)
            rows[key] = first_feature + view * self._count + order, first_label + order
        device = self._features.device
        features, labels = (
            torch.stack([rows[key][part] for key in self._keys]).to(device) for part in range(2)
        )
        labels = self._labels[labels]
        for start in range(0, self._count, self._size):
            chosen = features[:, start : start + self._size]
            batch = self._features.index_select(0, chosen.reshape(-1)).view(*chosen.shape, -1)
            yield batch, labels[:, start : start + self._size]

    def keep(self, positions: Sequence[int]) -> None:
        """Go on with some of the runs only."""
        self._keys = [self._keys[position] for position in positions]
