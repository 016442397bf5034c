"""The α/β search of cache methods, exact and without its repeated products.

The released search evaluates, for each of 200 × 20 pairs, the affinity matrix, its exponential, a product
with one-hot labels and an argmax over all classes. Here the affinities are computed once; a step of β is one
product per affinity, as ``exp(−(β + δ) x) = exp(−β x) · exp(−δ x)``, in tiles that stay in the cache of the
processor; the product with one-hot labels is a sum over shots; and α is solved for, see `alpha_intervals`.
Images that rounding could decide are given to the formula itself, so that no count can differ from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mmadapt.methods.parts.alpha_intervals import best_stretch, intervals

_ANCHOR = 8
"""Steps of β after which exponentials are computed afresh."""
_TILE = {"cpu": 2**19, "cuda": 2**25}
"""Affinities of a tile."""
_CHUNK = 2**22
"""Numbers held at once where images are evaluated by the formula."""


class Best(NamedTuple):
    """The chosen pair and the number of val images that it classifies rightly."""

    alpha: float
    beta: float
    correct: int


def class_affinities(
    cosines: Tensor, labels: Tensor, classes: int, beta: float | Tensor, shots: int = 0
) -> Tensor:
    """Return ``exp(−β (1 − cosines)) · one_hot(labels)`` without the one-hot matrix.

    Args:
        cosines: Products of queries and keys (..., B, N).
        labels: Class of each key (N,), in any order.
        classes: Number C of classes.
        beta: Sharpness β.
        shots: What `shots_per_class` says of the labels; 0 always holds.

    Returns:
        Votes (..., B, C).
    """
    weights = torch.exp(beta * (cosines - 1))
    if shots:
        by_shot: Tensor = weights.unflatten(-1, (-1, shots))
        return by_shot.sum(dim=-1)
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
    correct = correct_on_grid(zero_shot, cosines, cache_labels, labels, alphas, betas)
    row, column = divmod(int(correct.flatten().argmax()), len(alphas))
    return Best(alphas[column], betas[row], int(correct[row, column]))


def search_exact_alpha(
    zero_shot: Tensor,
    cosines: Tensor,
    cache_labels: Tensor,
    labels: Tensor,
    alpha_max: float,
    betas: Sequence[float],
) -> Best:
    """Return the pair with the highest accuracy over all real α in ``(0, alpha_max]`` and a grid of β.

    The optimum is a stretch of α: of those with most images right, over all β, the widest is taken, and its
    midpoint. An image counts where it is right by more than rounding, so that no stretch is an artefact.
    """
    low, high = _intervals(zero_shot, cosines, cache_labels, labels, alpha_max, betas)[0]
    found = [best_stretch(*ends, alpha_max) for ends in zip(low, high, strict=True)]
    best = max(range(len(betas)), key=lambda row: found[row][:2])
    return Best(found[best][2], betas[best], found[best][0])


def correct_on_grid(
    zero_shot: Tensor,
    cosines: Tensor,
    cache_labels: Tensor,
    labels: Tensor,
    alphas: Sequence[float],
    betas: Sequence[float],
) -> Tensor:
    """Return how many images are right at each grid point, (len(betas), len(alphas)); see `search_alpha_beta`."""
    ends = _intervals(zero_shot, cosines, cache_labels, labels, max(alphas), betas)

    def votes(row: int, images: Tensor) -> Tensor:
        return class_affinities(cosines[images], cache_labels, zero_shot.shape[1], betas[row])

    return _count(zero_shot, labels, alphas, ends, votes)


def correct_for_votes(zero_shot: Tensor, votes: Tensor, labels: Tensor, alphas: Sequence[float]) -> Tensor:
    """Return how many images ``zero_shot + α · votes`` classifies rightly for each α, (len(alphas),).

    Args:
        zero_shot: Scaled zero-shot logits L (V, C).
        votes: Class affinities S ≥ 0 of the cache (V, C).
        labels: Class of each image (V,).
        alphas: Rising grid of α ≥ 0.
    """
    ends = intervals(zero_shot.T, votes.T[None], labels, max(alphas), 0.0)
    return _count(zero_shot, labels, alphas, ends, lambda _, images: votes[images])[0]


def _count(
    zero_shot: Tensor,
    labels: Tensor,
    alphas: Sequence[float],
    ends: Tensor,
    votes: Callable[[int, Tensor], Tensor],
) -> Tensor:
    """Count sure intervals on the grid, and by the formula the images of which sure and possible ones differ.

    Args:
        zero_shot: Logits L (V, C).
        labels: Classes (V,).
        alphas: Rising grid.
        ends: The intervals (2, 2, R, V), see `intervals`.
        votes: Given a row and some images, their votes (P, C).
    """
    grid = torch.tensor(alphas, dtype=torch.float64, device=zero_shot.device)
    low, high = (each.contiguous() for each in ends.double().unbind(dim=1))
    first, stop = torch.searchsorted(grid, low), torch.searchsorted(grid, high, right=True)
    first, stop = (index * (first < stop) for index in (first, stop))
    unsure = (first[0] != first[1]) | (stop[0] != stop[1])
    counted = (~unsure).long()
    edges = first.new_zeros(len(unsure), len(alphas) + 1)
    edges.scatter_add_(1, first[0], counted).scatter_add_(1, stop[0], -counted)
    correct = edges.cumsum(dim=1)[:, :-1]
    steps = zero_shot.new_tensor(alphas)[:, None, None]
    chunk = max(_CHUNK // (len(alphas) * zero_shot.shape[1]), 1)
    for row in unsure.any(dim=1).nonzero().flatten().tolist():
        for images in unsure[row].nonzero().flatten().split(chunk):
            logits = zero_shot[images] + steps * votes(row, images)
            correct[row] += (logits.argmax(dim=-1) == labels[images]).sum(dim=-1)
    return correct


def _intervals(
    zero_shot: Tensor,
    cosines: Tensor,
    cache_labels: Tensor,
    labels: Tensor,
    alpha_max: float,
    betas: Sequence[float],
) -> Tensor:
    """Return for each β and image, (2, 2, len(betas), V), where in α it is right, see `intervals`."""
    (images, classes), keys = zero_shot.shape, len(cache_labels)
    step = betas[1] - betas[0] if len(betas) > 1 else 0.0
    even = all(abs(betas[0] + i * step - beta) < 1e-12 * max(1.0, abs(beta)) for i, beta in enumerate(betas))
    run = _ANCHOR if even else 1
    shots = int(torch.bincount(cache_labels, minlength=1).max())
    rounding = 4 * max(betas) + 6 * _ANCHOR + shots  # of exponent, products and sum, in units of eps
    error = rounding * torch.finfo(cosines.dtype).eps
    tile = max(_TILE.get(cosines.device.type, _TILE["cuda"]) // max(keys, classes), 1)
    ends = cosines.new_empty(2, 2, len(betas), images)
    for own in (slice(start, start + tile) for start in range(0, images, tile)):
        distances = (cosines[own].T - 1).contiguous()
        logits = zero_shot[own].T.contiguous()
        factor, weights = torch.exp(step * distances), torch.empty_like(distances)
        for start in range(0, len(betas), run):
            rows = betas[start : start + run]
            votes = distances.new_zeros(len(rows), classes, distances.shape[1])
            torch.mul(distances, rows[0], out=weights).exp_()
            for i in range(len(rows)):
                if i:
                    weights.mul_(factor)
                votes[i].index_add_(0, cache_labels, weights)
            ends[:, :, start : start + run, own] = intervals(logits, votes, labels[own], alpha_max, error)
    return ends
