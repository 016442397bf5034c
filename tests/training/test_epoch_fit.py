"""Whole epochs as steps: the same weights as Lightning's own loop, bit by bit."""

import pytest
import torch
from lightning import Callback, Trainer
from tests.support.methods import CLASSES, METHODS, build
from tests.support.trainers import QUIET

from mmadapt.errors import UserError
from mmadapt.features.encoder import FeatureSet
from mmadapt.methods.clip_adapter import ClipAdapter
from mmadapt.training.epoch_fit import epochs_as_steps, needs_textbook
from mmadapt.training.feature_data import BatchLoader, EpochLoader, EvalLoader
from mmadapt.training.trainer import ScaledGradients

TRAINED = [
    name for name in METHODS if name not in ("zero_shot", "linear_probe", "tip_adapter", "maple", "comma")
]


def support(dim, views=2, count=12):
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % len(CLASSES)
    centres = torch.randn(len(CLASSES), dim, generator=g)
    return FeatureSet(centres[labels] + 0.3 * torch.randn(views, count, dim, generator=g), labels)


def trained(method, *, whole, plugin=None, **options):
    """Return a method after three epochs, by whole epochs or batch by batch."""
    method.adapt(features := support(method.clip.dim), features)
    torch.manual_seed(0)
    trainer = Trainer(max_epochs=3, **QUIET, **options)
    if plugin is not None:
        trainer.strategy.precision_plugin = plugin
    method.setup = lambda stage: None
    method.on_fit_end = lambda: None
    loader = EpochLoader(features, 5, seed=1)
    val = EvalLoader(FeatureSet(features.image_features[:1], features.labels))
    if whole:
        with epochs_as_steps(method):
            trainer.fit(method, loader, val)
    else:
        trainer.fit(method, BatchLoader(loader), val)
    return trainer, method


@pytest.mark.parametrize("name", TRAINED)
def test_weights_and_curve_are_those_of_the_textbook_loop_bit_by_bit(name, small_clip):
    curves = []
    states = []
    for whole in (False, True):
        trainer, method = trained(build(name, small_clip), whole=whole)
        curves.append({key: float(value) for key, value in trainer.callback_metrics.items() if key != "lr"})
        states.append(method.state_dict())
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key
    fresh = build(name, small_clip)
    fresh.adapt(support(small_clip.dim), support(small_clip.dim))
    assert any(not torch.equal(value, states[0][key]) for key, value in fresh.state_dict().items())
    assert curves[0].keys() == curves[1].keys() >= {"train/loss", "val/top1", "val/nll"}
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)


@pytest.mark.parametrize("schedule_by", ["epoch", "step"])
def test_the_schedule_is_stepped_as_in_the_textbook_loop(schedule_by, small_clip):
    rates = []
    for whole in (False, True):
        seen = []

        class Rates(Callback):
            def on_train_epoch_end(self, trainer, pl_module, seen=seen):
                seen.append(trainer.optimizers[0].param_groups[0]["lr"])

        method = ClipAdapter(small_clip, CLASSES, epochs=3, schedule_by=schedule_by)
        trained(method, whole=whole, callbacks=[Rates()])
        rates.append(seen)
    assert rates[0] == rates[1]
    assert len(set(rates[0])) == 3


def test_a_scaled_loss_gives_the_same_weights(small_clip):
    plain, *scaled = (
        trained(ClipAdapter(small_clip, CLASSES, epochs=3), whole=whole, plugin=plugin)[1]
        .adapters["image"]
        .down.weight
        for whole, plugin in (
            (True, None),
            (True, ScaledGradients("16-mixed", "cpu")),
            (False, ScaledGradients("16-mixed", "cpu")),
        )
    )
    assert torch.equal(*scaled)
    torch.testing.assert_close(scaled[0], plain)


def test_a_loss_that_is_no_number_is_refused_with_its_epoch_either_way(small_clip):
    for whole in (True, False):
        method = ClipAdapter(small_clip, CLASSES)
        method.loss = lambda batch, method=method: method.adapters["image"].down.weight.sum() * float("nan")
        with pytest.raises(UserError, match=r"became nan in epoch 1.*method\.optimizer\.lr|not finite"):
            trained(method, whole=whole)


def test_the_module_is_a_textbook_one_again_after_the_fit(small_clip):
    method = ClipAdapter(small_clip, CLASSES)
    with epochs_as_steps(method):
        assert not method.automatic_optimization
    assert method.automatic_optimization
    assert "training_step" not in vars(method)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, []),
        ({"gradient_clip_val": 1.0}, ["gradient_clip_val"]),
        ({"accumulate_grad_batches": 2}, ["accumulate_grad_batches"]),
        ({"limit_train_batches": 1}, ["limit_train_batches"]),
        ({"overfit_batches": 1}, ["limit_train_batches"]),
    ],
)
def test_what_acts_on_single_batches_gets_them(options, named):
    assert needs_textbook(Trainer(**QUIET, **options)) == named
