"""Shares of a data set for the processes of a distributed run."""

import pytest
import torch

from mmadapt.features.encoder import FeatureSet
from mmadapt.training.feature_data import BatchLoader, EpochLoader, EvalLoader


def features(size):
    return FeatureSet(torch.arange(size, dtype=torch.float32).view(1, size, 1), torch.arange(size))


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_batches_of_all_processes_hold_each_image_once(world):
    loaders = [EvalLoader(features(10), 4, shard=(rank, world)) for rank in range(world)]
    batches = [batch for loader in loaders for batch in loader]
    assert sorted(torch.cat([labels for _, labels in batches]).tolist()) == list(range(10))
    assert all(torch.equal(image[:, 0].long(), labels) for image, labels in batches)
    assert [len(list(loader)) for loader in loaders] == [len(loader) for loader in loaders]


@pytest.mark.parametrize("world", [2, 4])
def test_processes_divide_each_training_batch(world):
    whole = next(iter(EpochLoader(features(16), 8, seed=1)))
    parts = [next(iter(EpochLoader(features(16), 8, seed=1, shard=(rank, world)))) for rank in range(world)]
    for (batch, weight), *shares in zip(whole, *parts, strict=True):
        assert weight == 1
        assert sorted(torch.cat([labels for (_, labels), _ in shares]).tolist()) == sorted(batch[1].tolist())
        assert {len(labels) for (_, labels), _ in shares} == {8 // world}
        assert {weight for _, weight in shares} == {1}


def test_single_batches_are_those_of_the_whole_epoch_and_processes_get_equal_numbers():
    epochs = EpochLoader(features(11), 4, seed=1)
    for (inputs, labels), (batch, _) in zip(
        BatchLoader(EpochLoader(features(11), 4, seed=1)), next(iter(epochs)), strict=True
    ):
        assert torch.equal(inputs, batch[0])
        assert torch.equal(labels, batch[1])
    parts = [list(BatchLoader(EpochLoader(features(11), 4, seed=1), (rank, 2))) for rank in (0, 1)]
    assert [[len(labels) for _, labels in part] for part in parts] == [[2, 2, 1]] * 2
