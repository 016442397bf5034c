"""The exact α/β search against the plain grid of the released code."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mmadapt.methods.parts import cache_search
from mmadapt.methods.parts.cache import search_grid
from mmadapt.methods.parts.cache_search import (
    class_affinities,
    correct_on_grid,
    search_alpha_beta,
    search_exact_alpha,
)


def plain_grid(zero_shot, cosines, cache_labels, labels, alphas, betas):
    """Evaluate every pair: affinities times one-hot labels, then argmax."""
    one_hot = F.one_hot(cache_labels, zero_shot.shape[1]).double()
    rows = []
    for beta in betas:
        votes = torch.exp(beta * (cosines.double() - 1)) @ one_hot
        logits = [zero_shot.double() + alpha * votes for alpha in alphas]
        rows.append(torch.stack([(row.argmax(dim=1) == labels).sum() for row in logits]))
    return torch.stack(rows)


def problem(seed, images=211, classes=7, shots=3, features=16):
    g = torch.Generator().manual_seed(seed)

    def unit(*shape):
        return F.normalize(torch.randn(*shape, generator=g, dtype=torch.float64), dim=-1)

    cache_labels = torch.arange(classes).repeat_interleave(shots)
    centres = unit(classes, features)
    labels = torch.randint(classes, (images,), generator=g)
    queries = F.normalize(centres[labels] + 0.8 * unit(images, features), dim=-1)
    keys = F.normalize(centres[cache_labels] + 0.8 * unit(len(cache_labels), features), dim=-1)
    texts = F.normalize(centres + 0.9 * unit(classes, features), dim=-1)
    return 20 * queries @ texts.T, queries @ keys.T, cache_labels, labels


@pytest.mark.parametrize("seed", range(8))
def test_every_grid_point_equals_the_plain_evaluation(seed):
    zero_shot, cosines, cache_labels, labels = problem(seed)
    alphas, betas = search_grid(12, 20), search_grid(20, 25)
    plain = plain_grid(zero_shot, cosines, cache_labels, labels, alphas, betas)
    assert len(plain.unique()) > 3, "the grid must matter for this test to mean anything"
    assert torch.equal(correct_on_grid(zero_shot, cosines, cache_labels, labels, alphas, betas), plain)


def test_unsorted_cache_and_missing_classes():
    zero_shot, cosines, cache_labels, labels = problem(3)
    order = torch.randperm(len(cache_labels), generator=torch.Generator().manual_seed(0))[:11]
    alphas, betas = search_grid(5, 10), search_grid(7, 10)
    arguments = zero_shot, cosines[:, order], cache_labels[order], labels, alphas, betas
    assert torch.equal(correct_on_grid(*arguments), plain_grid(*arguments))


def test_ties_go_to_the_first_class_as_argmax_has_it():
    zero_shot = torch.tensor([[1.0, 1.0, 0.0]] * 3, dtype=torch.float64)
    cosines = torch.tensor([[1.0, 1.0, 0.0]] * 3, dtype=torch.float64)
    arguments = zero_shot, cosines, torch.arange(3), torch.tensor([0, 1, 2]), [0.5, 1.0, 2.0], [1.0, 3.0]
    assert torch.equal(correct_on_grid(*arguments), plain_grid(*arguments))


def test_a_crossing_exactly_on_a_grid_point():
    """Class 1 overtakes class 0 at α = 2 exactly: there argmax still takes class 0."""
    zero_shot = torch.tensor([[2.0, 0.0]] * 2, dtype=torch.float64)
    cosines = torch.tensor([[-50.0, 1.0]] * 2, dtype=torch.float64)  # votes exp(−51 β) ≈ 0 and 1
    arguments = zero_shot, cosines, torch.arange(2), torch.tensor([0, 1]), [1.0, 2.0, 3.0], [20.0]
    assert correct_on_grid(*arguments).tolist() == plain_grid(*arguments).tolist() == [[1, 1, 1]]
    first = (zero_shot[:1], cosines[:1], torch.arange(2), torch.tensor([0]), [1.0, 2.0, 3.0], [20.0])
    assert correct_on_grid(*first).tolist() == plain_grid(*first).tolist() == [[1, 1, 0]]


def test_the_first_of_equals_wins_with_beta_in_the_outer_loop():
    zero_shot, cosines, cache_labels, labels = problem(1)
    alphas, betas = search_grid(12, 20), search_grid(20, 25)
    plain = plain_grid(zero_shot, cosines, cache_labels, labels, alphas, betas)
    best = search_alpha_beta(zero_shot, cosines, cache_labels, labels, alphas, betas)
    row, column = divmod(int(plain.flatten().argmax()), len(alphas))
    assert best == (alphas[column], betas[row], int(plain.max()))


def test_votes_are_the_one_hot_product_with_gradient():
    g = torch.Generator().manual_seed(0)
    cosines = torch.rand(2, 5, 9, generator=g, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(4, (9,), generator=g)
    fast = class_affinities(cosines, labels, 4, 5.5)
    slow = torch.exp(-5.5 * (1 - cosines)) @ F.one_hot(labels, 4).double()
    torch.testing.assert_close(fast, slow)
    weight = torch.randn(fast.shape, generator=g, dtype=torch.float64)
    gradients = [torch.autograd.grad((votes * weight).sum(), cosines)[0] for votes in (fast, slow)]
    torch.testing.assert_close(*gradients)


def test_the_grid_is_the_released_one():
    grid = search_grid(7, 200)
    assert (len(grid), grid[0]) == (200, 0.1)
    assert grid[-1] == pytest.approx(7 - (7 - 0.1) / 200)


@pytest.mark.parametrize("seed", range(4))
def test_float32_counts_are_those_of_the_formula_at_every_point_of_the_released_grid(seed):
    """Steps of β and intervals of α round otherwise than the formula; no count may show it."""
    zero_shot, cosines, cache_labels, labels = problem(seed)
    zero_shot, cosines = zero_shot.float(), cosines.float()
    alphas, betas = search_grid(3, 20), search_grid(7, 200)
    fast = correct_on_grid(zero_shot, cosines, cache_labels, labels, alphas, betas)
    for beta, row in zip(betas, fast, strict=True):
        votes = class_affinities(cosines, cache_labels, zero_shot.shape[1], beta)
        plain = [int(((zero_shot + a * votes).argmax(1) == labels).sum()) for a in alphas]
        assert row.tolist() == plain


def test_steps_of_beta_may_be_uneven():
    zero_shot, cosines, cache_labels, labels = problem(2)
    arguments = zero_shot, cosines, cache_labels, labels, search_grid(5, 10), [0.1, 0.5, 4.0, 4.1, 0.3]
    assert torch.equal(correct_on_grid(*arguments), plain_grid(*arguments))
    several = (
        correct_on_grid(*arguments[:5], search_grid(7, 10)),
        plain_grid(*arguments[:5], search_grid(7, 10)),
    )
    assert torch.equal(*several)


def test_tiles_and_chunks_change_nothing(monkeypatch):
    zero_shot, cosines, cache_labels, labels = problem(4)
    arguments = zero_shot, cosines, cache_labels, labels, search_grid(12, 20), search_grid(20, 25)
    whole = correct_on_grid(*arguments)
    monkeypatch.setitem(cache_search._TILE, "cpu", 100)
    monkeypatch.setattr(cache_search, "_CHUNK", 30)
    assert torch.equal(correct_on_grid(*arguments), whole)


@pytest.mark.parametrize("seed", range(8))
def test_the_exact_alpha_is_the_optimum_of_a_dense_grid(seed):
    """Between the ends of all intervals nothing changes: a point in each gap is every value there is."""
    zero_shot, cosines, cache_labels, labels = problem(seed, images=60)
    betas, alpha_max = search_grid(20, 12), 12.0
    best = search_exact_alpha(zero_shot, cosines, cache_labels, labels, alpha_max, betas)
    dense = [alpha_max * (i + 0.5) / 20000 for i in range(20000)]
    counts = correct_on_grid(zero_shot, cosines, cache_labels, labels, dense, betas)
    released = correct_on_grid(zero_shot, cosines, cache_labels, labels, search_grid(alpha_max, 20), betas)
    assert best.correct >= int(released.max())
    at_best = plain_grid(zero_shot, cosines, cache_labels, labels, [best.alpha], [best.beta])
    assert best.correct == int(counts.max()) == int(at_best)
    assert 0 < best.alpha < alpha_max


def test_the_exact_alpha_is_the_middle_of_its_stretch():
    """Class 1 wins from α = 2 on, class 0 up to α = 3: both are right between 2 and 3."""
    zero_shot = torch.tensor([[2.0, 0.0], [3.0, 0.0]], dtype=torch.float64)
    cosines = torch.tensor([[-50.0, 1.0]] * 2, dtype=torch.float64)
    arguments = zero_shot, cosines, torch.arange(2), torch.tensor([1, 0])
    best = search_exact_alpha(*arguments, 8.0, [20.0])
    assert best.correct == 2
    assert best.alpha == pytest.approx(2.5)
    assert search_exact_alpha(*arguments, 2.5, [20.0]).alpha == pytest.approx(2.25)
