"""An epoch of one batch, 80 cached features: the resident loader against a DataLoader with eight workers.

Run ``python -m benchmarks.one_batch_epoch`` from the top of the checkout. The reference is the setting of the
prompt-learning repositories: eight worker processes, not persistent, so every epoch starts and ends them. Both sides
yield the same images in the same order, which is the gate. Wall and CPU time are two outcomes; CPU time counts the
workers. Wall time on a shared machine is provisional.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, TensorDataset

from benchmarks.common import Outcome, cpu_of_all, finish, options
from mmadapt.features.encoder import FeatureSet
from mmadapt.training.feature_data import EpochLoader

IMAGES, DIM, WORKERS, GOAL = 80, 512, 8, 500.0
Batch = tuple[Tensor, Tensor]


class Stream(Sampler[int]):
    """The order of the resident loader's epochs, for the DataLoader."""

    def __init__(self, loader: EpochLoader) -> None:
        self.loader, self.epoch = loader, 0

    def __iter__(self) -> Iterator[int]:
        order, _ = self.loader.order(self.epoch)
        self.epoch += 1
        yield from order.tolist()


def resident(loader: EpochLoader) -> list[Batch]:
    """Return the batches of the next epoch, without the weights that only several processes need."""
    return [batch for epoch in loader for batch, _ in epoch]


def seconds(epoch: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Return wall and CPU seconds of one epoch, workers included."""
    wall, cpu = time.perf_counter(), cpu_of_all()
    for _ in range(repeats):
        epoch()
    return (time.perf_counter() - wall) / repeats, (cpu_of_all() - cpu) / repeats


def measure(workers: int, pairs: int, repeats: int, goal: float) -> list[Outcome]:
    """Gate, time and print one number of workers."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, IMAGES, DIM, generator=generator)
    data = FeatureSet(features, torch.arange(IMAGES) % 5)
    make = lambda: EpochLoader(data, IMAGES, seed=1)  # noqa: E731
    ours, plain = make(), TensorDataset(features[0], data.labels)
    theirs = DataLoader(plain, IMAGES, sampler=Stream(make()), num_workers=workers)
    epochs = [(resident(ours), list(theirs)) for _ in range(2)]
    same = all(
        torch.equal(one, other)
        for mine, other_side in epochs
        for pair in zip(mine, other_side, strict=True)
        for one, other in zip(*pair, strict=True)
    )
    times = [
        (seconds(lambda: list(theirs), 1), seconds(lambda: resident(ours), repeats))
        for _ in range(pairs if same else 0)
    ]
    outcomes = []
    for kind, column in (("wall", 0), ("CPU", 1)):
        outcome = Outcome(f"one-batch epoch, {workers} workers, {kind}", 0.0 if same else 1.0, 0.0, goal)
        slow, fast = ([pair[side][column] for pair in times] for side in (0, 1))
        outcome.ratios = [a / b for a, b in zip(slow, fast, strict=True)]
        if same:
            outcome.seconds, outcome.unit = (statistics.median(slow), statistics.median(fast)), f"s {kind}"
        outcome.load = os.getloadavg()[0]
        print(outcome, flush=True)
        outcomes.append(outcome)
    return outcomes


def main(argv: Sequence[str] | None = None) -> list[Outcome]:
    chosen = options(__doc__, argv)
    torch.set_num_threads(1)
    if chosen.smoke:
        return measure(1, 1, 5, GOAL)
    outcomes = measure(WORKERS, chosen.pairs, 2000, GOAL) + measure(0, chosen.pairs, 2000, 1.0)
    finish("one_batch_epoch", outcomes, chosen.smoke)
    return outcomes


if __name__ == "__main__":
    main()
