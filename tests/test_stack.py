"""Runs trained in a stack against the same runs trained alone."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from stack_cases import SGD, C, StubClip, alone, build, logits

from mmadapt.errors import UserError
from mmadapt.methods.clip_adapter import ClipAdapter
from mmadapt.methods.linear_probe import LinearProbe
from mmadapt.methods.mm_adapter import MMAdapter
from mmadapt.methods.tip_adapter_f import TipAdapterF
from mmadapt.methods.xmadapter import XMAdapter
from mmadapt.optim import Cosine, DasslCosine
from mmadapt.stack.lane import Lane, autograd_gradients, lane_key
from mmadapt.stack.train import train

ADAMW = partial(torch.optim.AdamW, eps=1e-4)
ADAM = partial(torch.optim.Adam, weight_decay=1e-4)
METHODS = {
    "clip adapter": (ClipAdapter, {"optimizer": SGD, "scheduler": DasslCosine, "schedule_by": "epoch"}),
    "clip adapter, no last relu": (ClipAdapter, {"optimizer": ADAMW, "final_relu": False}),
    "clip adapter, best epoch": (ClipAdapter, {"optimizer": SGD, "selection": "best_val"}),
    "clip adapter, both branches, learned": (ClipAdapter, {"optimizer": ADAMW, "branch": "both", "learn_ratio": True}),
    "clip adapter, grid": (ClipAdapter, {"optimizer": ADAM, "ratio_grid": [0.2, 0.6]}),
    "tip adapter f": (TipAdapterF, {"optimizer": ADAMW, "selection": "best_val"}),
    "xmadapter": (XMAdapter, {"optimizer": ADAMW, "selection": "best_val"}),
    "xmadapter, all": (XMAdapter, {"optimizer": SGD, "hard_weight": "all", "projection": "mlp"}),
    "xmadapter, focal": (XMAdapter, {"optimizer": ADAM, "hard_weight": "focal", "fusion": "confidence"}),
    "multi-modal adapter": (MMAdapter, {"optimizer": ADAM, "selection": "best_val", "patience": 2}),
    "multi-modal adapter, soft": (MMAdapter, {"optimizer": ADAM, "mask": "soft", "bottleneck": "lowrank"}),
    "multi-modal adapter, soft, linear": (MMAdapter, {"optimizer": ADAM, "mask": "soft"}),
    "multi-modal adapter, transformer": (MMAdapter, {"optimizer": ADAM, "block": "transformer", "dropout": 0.0}),
}  # fmt: skip
RUNS = [  # seeds, shots, rates and epochs in no order; 10, 15 and 20 images in batches of 4
    {"seed": 1, "shots": 2, "lr": 0.05, "epochs": 3},
    {"seed": 2, "shots": 2, "lr": 0.01, "epochs": 5},
    {"seed": 1, "shots": 4, "lr": 0.05, "epochs": 3},
    {"seed": 3, "shots": 3, "lr": 0.05, "epochs": 3},
    {"seed": 1, "shots": 2, "lr": 0.002, "epochs": 3},
    {"seed": 2, "shots": 4, "lr": 0.1, "epochs": 4},
]


@pytest.fixture(autouse=True)
def _same_arithmetic():
    """One thread and full precision for both sides, whatever earlier tests of the process have set."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def seen(name, weight):
    """Leave out key biases: softmax does not see them, so that Adam moves them by their gradients' rounding."""
    return (
        torch.cat([weight[: len(weight) // 3], weight[-len(weight) // 3 :]])
        if "in_proj_bias" in name
        else weight
    )


def pairs(name):
    """Return runs trained alone, with what training chose, and the same runs trained in a stack."""
    cls, options = METHODS[name]
    clip = StubClip()
    rate = 0.1 if options["optimizer"] is not SGD else 1.0
    each = [{**options, **run, "lr": rate * run["lr"]} for run in RUNS]
    serial = [(run, alone(run)) for run in (build(cls, clip, **one) for one in each)]
    stacked = [build(cls, clip, **one) for one in each]
    train(stacked)
    return serial, stacked


@pytest.mark.parametrize("name", METHODS)
def test_weights_and_choices_are_those_of_each_run_alone(name, double):
    serial, stacked = pairs(name)
    for (run, trained), other in zip(serial, stacked, strict=True):
        assert other.error is None
        for (key, weight), (_, found) in zip(
            run.method.named_parameters(), other.method.named_parameters(), strict=True
        ):
            torch.testing.assert_close(
                seen(key, found),
                seen(key, weight),
                atol=1e-10,
                rtol=0,
                msg=lambda text, key=key: f"{key}: {text}",
            )
        torch.testing.assert_close(logits(other), logits(run), atol=1e-10, rtol=0)
        assert (trained.epoch, trained.val_top1) == (other.best or (other.trained, None))
        for one in (run, other):
            one.method.search(one.data.val)
        assert other.method.tuned == pytest.approx(run.method.tuned, abs=1e-10)
    assert any(not torch.equal(logits(stacked[0]), logits(one)) for one in stacked[1:])
    assert [run.stacked for run in stacked] == [3, 3, 2, 1, 3, 2]


@pytest.mark.parametrize("name", METHODS)
def test_in_single_precision_logits_are_within_a_ten_thousandth(name):
    serial, stacked = pairs(name)
    for (run, _), other in zip(serial, stacked, strict=True):
        torch.testing.assert_close(logits(other), logits(run), atol=1e-4, rtol=0)


@pytest.mark.parametrize("final_relu", [True, False])
def test_written_out_gradients_are_those_of_autograd(final_relu, double):
    clip = StubClip()
    runs = [build(ClipAdapter, clip, seed=s, ratio=0.3, final_relu=final_relu) for s in (1, 2, 3)]
    lane = Lane(runs)
    features, labels = torch.randn(3, 7, clip.dim), torch.randint(C, (3, 7))
    formula = runs[0].method.stacked_gradients()
    assert formula is not None
    losses, gradients = formula(lane.weights, features, labels)
    expected, slow = autograd_gradients([run.method for run in runs])(lane.weights, features, labels)
    torch.testing.assert_close(losses, expected, atol=1e-12, rtol=0)
    for name in slow:
        assert slow[name].abs().max() > 1e-4
        torch.testing.assert_close(gradients[name], slow[name], atol=1e-12, rtol=1e-9)


def test_written_out_gradients_of_a_cache_are_those_of_autograd(double):
    clip = StubClip()
    runs = [build(TipAdapterF, clip, seed=s, alpha=1.3, beta=2.5) for s in (1, 2, 3)]
    lane = Lane(runs)
    features, labels = torch.randn(3, 7, clip.dim), torch.randint(C, (3, 7))
    formula = runs[0].method.stacked_gradients()
    assert formula is not None
    losses, gradients = formula(lane.weights, features, labels)
    expected, slow = autograd_gradients([run.method for run in runs])(lane.weights, features, labels)
    torch.testing.assert_close(losses, expected, atol=1e-12, rtol=0)
    assert slow["cache_keys"].abs().max() > 1e-6
    torch.testing.assert_close(gradients["cache_keys"], slow["cache_keys"], atol=1e-12, rtol=1e-9)


def test_caches_of_unequal_counts_or_values_take_autograd():
    clip = StubClip()
    method = build(TipAdapterF, clip).method
    method._set_cache(method.cache_keys.detach()[1:], method.cache_labels[1:])
    assert method.stacked_gradients() is None
    lane = Lane([build(TipAdapterF, clip, alpha=1.0), build(TipAdapterF, clip, alpha=2.0)])
    assert "autograd" in lane._gradients.__qualname__


def test_branches_without_a_formula_take_autograd():
    clip = StubClip()
    for options in ({"branch": "text"}, {"learn_ratio": True}, {"ratio_grid": [0.2, 0.6]}):
        assert build(ClipAdapter, clip, **options).method.stacked_gradients() is None


@pytest.mark.parametrize("optimizer", [
    partial(torch.optim.SGD), partial(torch.optim.SGD, momentum=0.8, dampening=0.2),
    partial(torch.optim.SGD, momentum=0.8, nesterov=True, weight_decay=0.1), partial(torch.optim.Adam),
    partial(torch.optim.Adam, betas=(0.7, 0.9), weight_decay=0.1), partial(torch.optim.AdamW, weight_decay=0.3),
])  # fmt: skip
def test_each_run_has_optimiser_options_of_its_own(optimizer, double):
    clip = StubClip()
    own = [{}, {"weight_decay": 0.2}, {"weight_decay": 0.0}]
    adam = optimizer.func is not torch.optim.SGD
    own[1] |= (
        {"betas": (0.5, 0.8), "eps": 1e-3}
        if adam
        else {}
        if "nesterov" in optimizer.keywords
        else {"momentum": 0.0}
    )
    each = [{"seed": 4, "optimizer": partial(optimizer, **options), "scheduler": None} for options in own]
    serial = [build(ClipAdapter, clip, **one) for one in each]
    stacked = [build(ClipAdapter, clip, **one) for one in each]
    for run in serial:
        alone(run)
    train(stacked)
    assert stacked[0].stacked == 3
    for run, other in zip(serial, stacked, strict=True):
        torch.testing.assert_close(other.method.up.weight, run.method.up.weight, atol=1e-12, rtol=0)
    assert not torch.allclose(serial[0].method.up.weight, serial[1].method.up.weight, atol=1e-6)


@pytest.mark.parametrize("schedule_by", ["epoch", "step"])
@pytest.mark.parametrize("scheduler", [
    Cosine, partial(torch.optim.lr_scheduler.PolynomialLR),
    lambda optimizer, total: torch.optim.lr_scheduler.StepLR(optimizer, max(total // 2, 1)), None,
])  # fmt: skip
def test_schedules_are_followed(scheduler, schedule_by, double):
    clip = StubClip()
    one, other = (
        build(ClipAdapter, clip, scheduler=scheduler, schedule_by=schedule_by, epochs=4) for _ in range(2)
    )
    alone(one)
    train([other, build(ClipAdapter, clip, scheduler=scheduler, schedule_by=schedule_by, seed=5, epochs=6)])
    torch.testing.assert_close(other.method.down.weight, one.method.down.weight, atol=1e-12, rtol=0)


def test_a_run_that_diverges_fails_alone_with_the_message_it_has_alone(double):
    clip = StubClip()
    each = [{"lr": 0.05, "seed": 1}, {"lr": 1e200, "seed": 2}, {"lr": 0.02, "seed": 3}]
    serial, stacked = ([build(ClipAdapter, clip, **one, epochs=4) for one in each] for _ in range(2))
    with pytest.raises(UserError, match="became") as failure:
        alone(serial[1])
    alone(serial[0])
    alone(serial[2])
    train(stacked)
    assert str(stacked[1].error) == str(failure.value)
    for i in (0, 2):
        assert stacked[i].error is None
        torch.testing.assert_close(
            stacked[i].method.up.weight, serial[i].method.up.weight, atol=1e-12, rtol=0
        )


def test_the_order_of_runs_and_the_size_of_blocks_do_not_matter(double):
    clip = StubClip()
    each = [{"seed": seed, "lr": lr, "epochs": seed + 1} for seed in (1, 2) for lr in (0.1, 0.01)]
    whole, blocks = ([build(ClipAdapter, clip, **one) for one in each] for _ in range(2))
    train(whole)
    train(blocks[::-1], block=3)
    for run, other in zip(whole, blocks, strict=True):
        torch.testing.assert_close(other.method.up.weight, run.method.up.weight, atol=1e-12, rtol=0)
        assert other.stacked == 4


def test_weights_are_the_methods_own_after_training():
    runs = [build(ClipAdapter, StubClip(), seed=s) for s in (1, 1)]
    runs[1].method.clip = runs[0].method.clip
    train(runs)
    storages = {run.method.up.weight.untyped_storage().data_ptr() for run in runs}
    assert len(storages) == 2
    assert all(run.method.up.weight.untyped_storage().nbytes() == run.method.up.weight.nbytes for run in runs)
    assert all(run.method.up.weight.requires_grad for run in runs)


def test_runs_in_step_share_shapes_and_constants():
    clip = StubClip()
    first = build(ClipAdapter, clip)
    same = [
        {"seed": 7},
        {"lr": 1.0},
        {"epochs": 9},
        {"scheduler": None},
        {"selection": "best_val"},
        {"views": 1},
    ]
    other = [{"shots": 3}, {"batch": 5}, {"ratio": 0.3}, {"final_relu": False}, {"reduction": 2}, {"branch": "text"},
             {"optimizer": torch.optim.Adam}, {"logit_scale": 10.0}]  # fmt: skip
    assert all(lane_key(build(ClipAdapter, clip, **one)) == lane_key(first) for one in same)
    keys = [lane_key(build(ClipAdapter, clip, **one)) for one in other]
    assert lane_key(first) not in keys
    assert len(set(keys)) == len(keys)


def test_caches_may_differ_in_alpha_and_beta(double):
    clip = StubClip()
    each = [{"alpha": 1.0, "beta": 2.0}, {"alpha": 3.0, "beta": 5.0}]
    serial, stacked = (
        [build(TipAdapterF, clip, optimizer=torch.optim.AdamW, **one) for one in each] for _ in range(2)
    )
    for run in serial:
        alone(run)
    train(stacked)
    for run, other in zip(serial, stacked, strict=True):
        assert other.stacked == 2
        torch.testing.assert_close(other.method.cache_keys, run.method.cache_keys, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("cls", "options", "reason"), [
    (LinearProbe, {}, "does not declare"),
    (XMAdapter, {"training_free": True}, "nothing to train"),
    (MMAdapter, {"block": "transformer"}, "noise"),
    (ClipAdapter, {"optimizer": torch.optim.Adagrad}, "Adagrad"),
    (ClipAdapter, {"optimizer": partial(torch.optim.Adam, amsgrad=True)}, "amsgrad"),
    (ClipAdapter, {"scheduler": lambda o, total: torch.optim.lr_scheduler.ReduceLROnPlateau(o)}, "loss"),
    (ClipAdapter, {"scheduler": lambda o, total: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total)}, "momentum"),
])  # fmt: skip
def test_what_cannot_be_stacked_is_refused_with_the_reason(cls, options, reason):
    run = build(cls, StubClip(), **options)
    with pytest.raises(UserError, match=reason):
        train([run])
