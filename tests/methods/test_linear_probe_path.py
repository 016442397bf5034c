"""The path of the linear probe: each value of C from the one before, the same as each from zero."""

from __future__ import annotations

import itertools
import warnings

import pytest
import torch
from sklearn.linear_model import LogisticRegression as Reference
from torch.nn import functional as F

from mmadapt.data.base import ClassSet
from mmadapt.features.encoder import FeatureSet
from mmadapt.methods.linear_probe import LinearProbe, choose_exponent
from mmadapt.methods.parts import logistic
from mmadapt.methods.parts.logistic import LogisticRegression, objective_of

CLASSES, WIDTH = 5, 64
PATH = [10.0**exponent for exponent in range(-6, 7)]


def draw(images, seed, noise):
    centres = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(0))
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(images) % CLASSES
    return centres[labels] + noise * torch.randn(images, WIDTH, generator=g) + 5, labels


def per_image(solution, features, labels, inverse):
    """Return the objective over C N, in nats."""
    weight, bias = solution
    loss = F.cross_entropy(features.double() @ weight.T + bias, labels)
    return float(loss + 0.5 * weight.square().sum() / (inverse * len(labels)))


def test_value_and_gradient_equal_autograd():
    g = torch.Generator().manual_seed(0)
    z, at = torch.randn(20, 8, generator=g).double(), torch.randn(3, 8, generator=g).double()
    labels, penalty = torch.arange(20) % 3, torch.rand(8, generator=g).double()
    value, gradient = objective_of(z, F.one_hot(labels, 3).double().T, penalty)(at)
    at.requires_grad_()
    slow = F.cross_entropy(z @ at.T, labels) + 0.5 * (penalty * at.square()).sum()
    slow.backward()
    assert value == pytest.approx(slow.item(), rel=1e-12)
    torch.testing.assert_close(gradient, at.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("images", "noise"), [(40, 3), (400, 8)], ids=["separable", "overlapping"])
def test_path_ends_where_cold_fits_end(images, noise):
    features, labels = draw(images, 1, noise)
    path = LogisticRegression(features, labels, CLASSES)
    for inverse in (1e-4, 1e-2, 1.0, 30.0):
        warm = path.fit(inverse, tolerance=1e-10, max_iterations=20000)
        cold = LogisticRegression(features, labels, CLASSES).fit(
            inverse, tolerance=1e-10, max_iterations=20000
        )
        for a, b in zip(warm, cold, strict=True):
            assert a.dtype == torch.float64
            torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize(("images", "noise"), [(5, 3), (40, 3), (40, 0.1), (200, 3), (400, 8)])
def test_whole_path_by_default_is_close_to_the_minimum_and_to_scikit_learn(images, noise):
    features, labels = draw(images, 1, noise)
    path, exact = (LogisticRegression(features, labels, CLASSES) for _ in range(2))
    for inverse in PATH:
        ours = per_image(path.fit(inverse), features, labels, inverse)
        lowest = per_image(exact.fit(inverse, tolerance=1e-8), features, labels, inverse)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            other = Reference(C=inverse, max_iter=1000).fit(features.numpy(), labels.numpy())
        theirs = tuple(torch.from_numpy(part).double() for part in (other.coef_, other.intercept_))
        assert lowest - 1e-9 <= ours <= lowest + 1e-4
        assert ours <= per_image(theirs, features, labels, inverse) + 1e-4


def test_only_weaker_penalties_start_from_what_was_fitted():
    features, labels = draw(40, 1, noise=3)
    backwards = LogisticRegression(features, labels, CLASSES)
    for inverse in reversed(PATH):
        cold = LogisticRegression(features, labels, CLASSES).fit(inverse)
        assert all(torch.equal(a, b) for a, b in zip(backwards.fit(inverse), cold, strict=True))


def test_warm_starts_save_evaluations(monkeypatch):
    calls = itertools.count()

    def counting(*arguments):
        evaluate = objective_of(*arguments)
        return lambda at: (next(calls), evaluate(at))[1]

    monkeypatch.setattr(logistic, "objective_of", counting)
    features, labels = draw(200, 1, noise=3)
    path = LogisticRegression(features, labels, CLASSES)
    for inverse in PATH:
        path.fit(inverse)
    warm = next(calls)
    for inverse in PATH:
        LogisticRegression(features, labels, CLASSES).fit(inverse)
    assert warm < 0.8 * (next(calls) - warm - 1)


@pytest.mark.parametrize("shots", [40, 200])
def test_search_chooses_as_with_exact_cold_fits(small_clip, shots):
    support, val = (FeatureSet(f[None], y) for f, y in (draw(shots, 1, noise=4), draw(100, 2, noise=4)))
    probe = LinearProbe(small_clip, ClassSet(tuple("abcde")), coarse=(1e2, 1.0, 1e-2, 1e-4), halvings=5)
    probe.weight.data = torch.zeros(CLASSES, WIDTH)
    probe.adapt(support, val)

    right = {}

    def correct(exponent):
        problem = LogisticRegression(support.image_features[0], support.labels, CLASSES)
        weight, bias = problem.fit(10.0**exponent, tolerance=1e-8, max_iterations=20000)
        predicted = (val.image_features[0].double() @ weight.T + bias).argmax(dim=1)
        right[10.0**exponent] = int((predicted == val.labels).sum())
        return right[10.0**exponent]

    choose_exponent(correct, [2.0, 0.0, -2.0, -4.0], 5)
    assert probe.tuned == {"C": max(right, key=lambda inverse: (right[inverse], -inverse))}
    assert len(set(right.values())) > 3, "a search with nothing to choose shows nothing"


def test_coarse_values_are_fitted_upwards_and_ties_keep_their_order():
    asked = []

    def score(exponent):
        asked.append(exponent)
        return 0 if abs(exponent) < 3 else 1

    assert choose_exponent(score, [4.0, 0.0, -4.0], 0) == 5.0
    assert asked[:3] == [-4.0, 0.0, 4.0]


def test_identical_features_give_the_share_of_each_class():
    labels = torch.tensor([0, 0, 0, 1, 2])
    problem = LogisticRegression(torch.full((5, 8), 0.3), labels, 3)
    for inverse in (1e-4, 1.0, 1e6):
        weight, bias = problem.fit(inverse, tolerance=1e-8)
        assert weight.abs().max() < 1e-6
        shares = (torch.full((8,), 0.3).double() @ weight.T + bias).softmax(dim=0)
        torch.testing.assert_close(shares, torch.tensor([0.6, 0.2, 0.2]).double(), rtol=1e-5, atol=1e-6)


def test_a_class_without_shots_or_val_images(small_clip):
    (features, labels), (images, answers) = draw(40, 1, noise=2), draw(40, 2, noise=2)
    kept, asked = labels != 1, answers != 3
    probe = LinearProbe(small_clip, ClassSet(tuple("abcde")))
    probe.weight.data = torch.zeros(CLASSES, WIDTH)
    probe.adapt(
        FeatureSet(features[None, kept], labels[kept]), FeatureSet(images[None, asked], answers[asked])
    )
    assert probe.weight.isfinite().all()
    assert probe.bias.isfinite().all()
    right = (probe(images[asked]).argmax(dim=1) == answers[asked])[answers[asked] != 1]
    assert right.float().mean() > 0.9
