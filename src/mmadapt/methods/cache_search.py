"""The α/β search of cache methods, exact and without its repeated products.

The released search evaluates, for each of 200 × 20 pairs, the affinity matrix, its exponential, a product
with one-hot labels and an argmax over all classes. Here the affinities are computed once; the product with
one-hot labels is a sum over runs of equal labels; and α is solved for instead of tried: image i is right for
class y exactly where ``L_y + α S_y`` is the largest, an interval of α.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Best(NamedTuple):
    """The chosen pair and the number of val images that it classifies rightly."""

    alpha: float
    beta: float
    correct: int


def class_affinities(cosines: Tensor, labels: Tensor, classes: int, beta: float | Tensor) -> Tensor:
    """Return ``exp(−β (1 − cosines)) · one_hot(labels)`` without the one-hot matrix.

    Args:
        cosines: Products of queries and keys (..., B, N).
        labels: Class of each key (N,), in any order.
        classes: Number C of classes.
        beta: Sharpness β.

    Returns:
        Votes (..., B, C).
    """
    weights = torch.exp(beta * (cosines - 1))
    votes = weights.new_zeros(*cosines.shape[:-1], classes)
    return votes.index_add(-1, labels, weights)


def search_alpha_beta(
    zero_shot: Tensor,
    cosines: Tensor,
    cache_labels: Tensor,
    labels: Tensor,
    alphas: Sequence[float],
    betas: Sequence[float],
) -> Best:
    """Return the pair with the highest accuracy; the first of equals, β in the outer loop, as released.

    Args:
        zero_shot: Scaled zero-shot logits L of the val images (V, C).
        cosines: Their products with the cache keys (V, N).
        cache_labels: Class of each key (N,), in any order.
        labels: Class of each val image (V,).
        alphas: Rising grid of α ≥ 0.
        betas: Grid of β.
    """
    best = Best(alphas[0], betas[0], -1)
    for beta, correct in zip(
        betas, correct_on_grid(zero_shot, cosines, cache_labels, labels, alphas, betas), strict=True
    ):
        top = int(correct.argmax())
        if int(correct[top]) > best.correct:
            best = Best(alphas[top], beta, int(correct[top]))
    return best


def correct_on_grid(
    zero_shot: Tensor,
    cosines: Tensor,
    cache_labels: Tensor,
    labels: Tensor,
    alphas: Sequence[float],
    betas: Sequence[float],
) -> Tensor:
    """Return how many images are right at each grid point, (len(betas), len(alphas)); see `search_alpha_beta`."""
    rows = []
    for beta in betas:
        votes = class_affinities(cosines, cache_labels, zero_shot.shape[1], beta)
        rows.append(correct_for_votes(zero_shot, votes, labels, alphas))
    return torch.stack(rows)


def correct_for_votes(zero_shot: Tensor, votes: Tensor, labels: Tensor, alphas: Sequence[float]) -> Tensor:
    """Return how many images ``zero_shot + α · votes`` classifies rightly for each α, (len(alphas),).

    Args:
        zero_shot: Scaled zero-shot logits L (V, C).
        votes: Class affinities S of the cache (V, C).
        labels: Class of each image (V,).
        alphas: Rising grid of α ≥ 0.
    """
    grid = torch.tensor(alphas, dtype=torch.float64, device=zero_shot.device)
    columns = torch.arange(zero_shot.shape[1], device=zero_shot.device)
    # argmax takes the first of equal logits: y must beat the classes before it, and match those after it.
    before = columns < labels[:, None]
    others = columns != labels[:, None]
    own = labels[:, None]
    lead = (zero_shot.gather(1, own) - zero_shot).double()  # L_y − L_c
    slope = (votes.gather(1, own) - votes).double()  # S_y − S_c; y wins where lead + α · slope ≥ 0
    return _count_wins(lead, slope, before, others, grid)


def _count_wins(lead: Tensor, slope: Tensor, before: Tensor, others: Tensor, grid: Tensor) -> Tensor:
    """Intersect, per image, the half-lines of α on which y wins against each class; count on the grid."""
    root = -lead / slope
    never = others & (slope == 0) & torch.where(before, lead <= 0, lead < 0)
    lower, upper = (
        torch.where(others & (slope > 0), root, -torch.inf),
        torch.where(others & (slope < 0), root, torch.inf),
    )
    # First grid index allowed by the lower bounds, first index refused by the upper bounds. `>` and `≥` differ
    # only where a bound hits a grid point exactly.
    strict_low = lower.masked_fill(~before, -torch.inf).amax(dim=1)
    loose_low = lower.masked_fill(before, -torch.inf).amax(dim=1)
    strict_high = upper.masked_fill(~before, torch.inf).amin(dim=1)
    loose_high = upper.masked_fill(before, torch.inf).amin(dim=1)
    first = torch.maximum(
        torch.searchsorted(grid, strict_low, right=True), torch.searchsorted(grid, loose_low)
    )
    stop = torch.minimum(
        torch.searchsorted(grid, strict_high), torch.searchsorted(grid, loose_high, right=True)
    )
    wins = (first < stop) & ~never.any(dim=1)
    edges = torch.zeros(len(grid) + 1, dtype=torch.long, device=grid.device)
    edges.index_add_(0, first[wins], torch.ones_like(first[wins]))
    edges.index_add_(0, stop[wins], -torch.ones_like(stop[wins]))
    return edges.cumsum(0)[:-1]
