"""Learning rates, to the digits of published logs."""

from __future__ import annotations

import pytest
import torch

from mmadapt.methods.parts.schedules import Cosine, DasslCosine


def rates(scheduler, total, lr=0.002):
    """Return the learning rate of each of ``total`` epochs."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    schedule = scheduler(optimizer, total)
    found = []
    for _ in range(total):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_dassl_schedule_to_the_digits_of_its_logs():
    found = rates(DasslCosine, 50)
    assert found[0] == 1e-5
    assert found[1] == pytest.approx(0.002)
    assert f"{found[44]:.6e}" == "9.517295e-05"
    assert f"{found[49]:.6e}" == "7.885299e-06"


def test_warm_up_is_optional_and_of_any_length():
    assert rates(lambda o, t: DasslCosine(o, t, warmup=0), 10)[0] == pytest.approx(0.002)
    assert rates(lambda o, t: DasslCosine(o, t, warmup=3, warmup_lr=1e-6), 10)[:3] == [1e-6] * 3


def test_cosine_ends_at_zero_and_halves_in_the_middle():
    found = rates(Cosine, 20)
    assert found[0] == 0.002
    assert found[10] == pytest.approx(0.001)
    assert found == sorted(found, reverse=True)
    assert 0 < found[-1] < 2e-5
