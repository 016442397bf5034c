"""L-BFGS on functions whose minimum is known."""

from __future__ import annotations

import math

import pytest
import torch

from mmadapt.methods.parts.lbfgs import minimise


def quadratic(condition=100.0, size=30):
    g = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(size, size, generator=g).double())[0]
    hessian = axes * torch.logspace(-math.log10(condition), 0, size).double() @ axes.T
    return hessian, torch.randn(size, generator=g).double()


def counted(function):
    """Return the objective of a function of x, by autograd, and the list of its values so far."""
    values = []

    def objective(x):
        at = x.detach().requires_grad_()
        value = function(at)
        values.append(float(value.detach()))
        return values[-1], torch.autograd.grad(value, at)[0]

    return objective, values


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_quadratic_is_solved_whatever_its_scale(scale):
    hessian, slope = quadratic()
    objective, values = counted(lambda x: scale * (0.5 * x @ hessian @ x - slope @ x))
    found = minimise(objective, torch.zeros(30).double(), tolerance=1e-9 * scale, max_iterations=500)
    torch.testing.assert_close(found.x, torch.linalg.solve(hessian, slope), rtol=1e-5, atol=1e-6)
    assert found.steepest <= 1e-9 * scale
    assert len(values) < 200


def test_start_is_kept_and_its_shape():
    hessian, slope = quadratic()
    start = torch.ones(5, 6).double()
    objective, _ = counted(lambda x: 0.5 * x.flatten() @ hessian @ x.flatten() - slope @ x.flatten())
    found = minimise(objective, start, tolerance=1e-9, max_iterations=500)
    assert found.x.shape == (5, 6)
    assert (start == 1).all()


def test_a_start_at_the_minimum_costs_one_evaluation():
    objective, values = counted(lambda x: x.square().sum())
    found = minimise(objective, torch.zeros(3), tolerance=0.0, max_iterations=9)
    assert len(values) == 1
    assert found.value == 0


def test_steps_are_limited_and_the_value_never_rises():
    hessian, slope = quadratic(condition=1e6)
    seen = []
    for limit in (0, 1, 2, 4, 8):
        objective, _ = counted(lambda x: 0.5 * x @ hessian @ x - slope @ x)
        seen.append(minimise(objective, torch.zeros(30).double(), tolerance=0.0, max_iterations=limit).value)
    assert seen[0] == 0
    assert seen == sorted(seen, reverse=True)
    assert len(set(seen)) == len(seen)


def test_a_minimum_at_infinity_ends_by_the_tolerance():
    objective, _ = counted(lambda x: (-x).exp().sum())
    found = minimise(objective, torch.zeros(2).double(), tolerance=1e-8, max_iterations=100)
    assert 0 < found.value <= 2e-8


def test_rounding_ends_it_when_the_tolerance_cannot_be_reached():
    objective, values = counted(lambda x: (x - 1 / 3).cosh().sum() * 1e3)
    found = minimise(objective, torch.full((4,), 2.0), tolerance=0.0, max_iterations=10**6)
    assert (found.x - 1 / 3).abs().max() < 1e-6
    assert len(values) < 1000


def test_steps_into_overflow_are_shortened():
    objective, _ = counted(lambda x: (50 * x).cosh().log().sum() if x.abs().max() < 9 else x.sum() * math.nan)
    found = minimise(objective, torch.full((2,), 2.0).double(), tolerance=1e-6, max_iterations=200)
    assert found.x.abs().max() < 1e-6


def test_a_start_that_is_not_a_number_is_returned():
    objective, values = counted(lambda x: x.sum() * math.nan)
    assert math.isnan(minimise(objective, torch.ones(2), tolerance=1e-6, max_iterations=50).value)
    assert len(values) == 1
