"""Shares of a data set for the processes of a distributed run."""

import pytest
import torch

from mmadapt.data.resident import EpochLoader, EvalLoader
from mmadapt.data.samplers import ShardSampler
from mmadapt.features import FeatureSet
from mmadapt.processes import this_process


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 100])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_every_image_is_scored_once(size, world):
    shares = [list(ShardSampler(size, rank, world)) for rank in range(world)]
    assert sorted(i for share in shares for i in share) == list(range(size))
    assert [len(ShardSampler(size, rank, world)) for rank in range(world)] == [len(share) for share in shares]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_training_shares_are_equal_disjoint_and_new_in_each_epoch():
    samplers = [ShardSampler(10, rank, 4, shuffle=True, seed=3, even=True) for rank in range(4)]
    left_out = []
    for epoch in range(3):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        shares = [list(sampler) for sampler in samplers]
        assert [len(share) for share in shares] == [2] * 4 == [len(sampler) for sampler in samplers]
        seen = [i for share in shares for i in share]
        assert len(set(seen)) == 8
        left_out.append(set(range(10)) - set(seen))
    assert len(set(map(frozenset, left_out))) > 1
    assert list(samplers[0]) == list(samplers[0])


def test_order_does_not_depend_on_global_state():
    state = torch.get_rng_state()
    first = list(ShardSampler(20, 1, 2, shuffle=True, seed=1))
    torch.rand(3)
    assert list(ShardSampler(20, 1, 2, shuffle=True, seed=1)) == first
    assert list(ShardSampler(20, 1, 2, shuffle=True, seed=2)) != first
    torch.set_rng_state(state)


def test_wrong_rank():
    with pytest.raises(ValueError, match="rank=2 must be"):
        ShardSampler(5, 2, 2)
    assert this_process() == (0, 1)


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
