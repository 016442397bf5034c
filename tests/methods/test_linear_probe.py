"""The linear probe against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression as Reference

from mmadapt.methods.linear_probe import choose_exponent
from mmadapt.methods.parts.logistic import LogisticRegression


def problem(images=60, classes=5, width=12):
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(images) % classes
    features = (
        torch.randn(classes, width, generator=g)[labels] * 2 + 3 * torch.randn(images, width, generator=g) + 5
    )
    return features, labels


def objective(weight, bias, features, labels, inverse):
    loss = torch.nn.functional.cross_entropy(features.double() @ weight.T + bias, labels, reduction="sum")
    return float(inverse * loss + 0.5 * (weight**2).sum())


@pytest.mark.parametrize("inverse", [1e-3, 0.1, 1.0, 30.0])
def test_minimum_equals_scikit_learn(inverse):
    features, labels = problem()
    weight, bias = LogisticRegression(features, labels, 5).fit(inverse, tolerance=1e-10, max_iterations=20000)
    other = Reference(C=inverse, solver="newton-cg", tol=1e-10, max_iter=20000).fit(
        features.double().numpy(), labels.numpy()
    )
    np.testing.assert_allclose(weight.numpy(), other.coef_, rtol=1e-3, atol=2e-5)
    theirs = objective(
        torch.from_numpy(other.coef_), torch.from_numpy(other.intercept_), features, labels, inverse
    )
    assert objective(weight, bias, features, labels, inverse) == pytest.approx(theirs, rel=1e-8)


def test_default_tolerance_ends_close_to_the_minimum():
    features, labels = problem(images=40, width=64)
    for inverse in (1e-2, 1.0, 1e2, 1e4):
        exact = objective(
            *LogisticRegression(features, labels, 5).fit(inverse, tolerance=1e-9), features, labels, inverse
        )
        ours = objective(*LogisticRegression(features, labels, 5).fit(inverse), features, labels, inverse)
        assert exact <= ours <= exact + 1e-3 * inverse * len(labels)


def test_fewer_images_than_dimensions_and_a_constant_feature():
    features, labels = problem(images=10, width=40)
    features[:, 3] = 7.0
    weight, bias = LogisticRegression(features, labels, 5).fit(1.0)
    assert weight.shape == (5, 40)
    assert bias.isfinite().all()
    assert weight[:, 3].abs().max() < 1e-9, "the bias, not a penalised weight, carries a constant"


def test_the_search_finds_a_peak_between_the_coarse_values():
    found = choose_exponent(lambda e: -round(1000 * abs(e + 1.3)), [6, 4, 2, 0, -2, -4, -6], 8)
    assert found == pytest.approx(-1.3, abs=0.05)
