"""The exact α/β search against the plain grid of the released code."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mmadapt.methods.cache_search import class_affinities, correct_on_grid, search_alpha_beta
from mmadapt.methods.tip_adapter import search_grid


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
