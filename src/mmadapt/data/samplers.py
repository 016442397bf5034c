"""Shares of a data set for the processes of a distributed run; no image is seen twice."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class ShardSampler(Sampler[int]):
    """One process's share: every position belongs to exactly one process, and none is repeated to fill up.

    Lightning's and PyTorch's samplers repeat images until all shares are equal, which counts them twice in a
    score. Shares here differ by one image at most. Training steps must be equal in number on all processes:
    there, `even` leaves out the last few images of an epoch's order, other ones in every epoch.
    """

    def __init__(
        self,
        size: int,
        rank: int,
        world_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        even: bool = False,
    ) -> None:
        """Bind a share.

        Args:
            size: Number of images.
            rank: This process, from 0.
            world_size: Number of processes.
            shuffle: Whether the order is drawn anew in each epoch, the same on all processes.
            seed: Seed of the order.
            even: Whether all shares have the same length.

        Raises:
            ValueError: If there is no such process.
        """
        if not 0 <= rank < world_size:
            raise ValueError(f"rank={rank} must be at least 0 and below world_size={world_size}.")
        self.size, self.rank, self.world_size = size, rank, world_size
        self.shuffle, self.seed, self.even, self.epoch = shuffle, seed, even, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration; Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(range(self.rank, self._used, self.world_size))

    def __iter__(self) -> Iterator[int]:
        return iter(self.positions().tolist())

    def positions(self) -> torch.Tensor:
        """Return this epoch's positions as a tensor."""
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
            order = torch.randperm(self.size, generator=generator)
        else:
            order = torch.arange(self.size)
        return order[self.rank : self._used : self.world_size]

    @property
    def _used(self) -> int:
        return self.size - self.size % self.world_size if self.even else self.size
