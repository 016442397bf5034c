"""The α/β search of cache methods, exact and without its repeated products.

The released search evaluates, for each of 200 × 20 pairs, the affinity matrix, its exponential, a product
with one-hot labels and an argmax over all classes. Here the affinities are computed once; a step of β is one
product per affinity, as ``exp(−(β + δ) x) = exp(−β x) · exp(−δ x)``, in tiles that stay in the cache of the
processor; the product with one-hot labels is a sum over shots; and α is solved for, see `alpha_intervals`.
Images that rounding could decide are given to the formula itself, so that no count can differ from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mmadapt.methods.parts.alpha_intervals import Intervals, Leads, Stretch, best_stretch, count_on_grid

_ANCHOR = 8
"""Steps of β after which exponentials are computed afresh."""
_TILE = {"cpu": 2**18, "cuda": 2**25}
"""Affinities of a tile."""
_CHUNK = 2**22
"""Numbers held at once where pairs of image and β are evaluated by the formula."""


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

    Args:
        zero_shot: Scaled zero-shot logits L of the val images (V, C).
        cosines: Their products with the cache keys (V, N).
        cache_labels: Class of each key (N,), in any order.
        labels: Class of each val image (V,).
        alpha_max: Upper end of α > 0.
        betas: Grid of β.
    """
    sure, _ = _intervals(zero_shot, cosines, cache_labels, labels, alpha_max, betas)
    best, at = Stretch(-1, 0.0, 0.0), betas[0]
    for beta, low, high in zip(betas, sure.low, sure.high, strict=True):
        found = best_stretch(Intervals(low, high), alpha_max)
        if (found.held, found.high - found.low) > (best.held, best.high - best.low):
            best, at = found, beta
    return Best((best.low + best.high) / 2, at, best.held)


def correct_on_grid(
    zero_shot: Tensor,
    cosines: Tensor,
    cache_labels: Tensor,
    labels: Tensor,
    alphas: Sequence[float],
    betas: Sequence[float],
) -> Tensor:
    """Return how many images are right at each grid point, (len(betas), len(alphas)); see `search_alpha_beta`."""
    classes, grid_of_beta = zero_shot.shape[1], cosines.new_tensor(betas)

    def votes(rows: Tensor, images: Tensor) -> Tensor:
        return class_affinities(cosines[images], cache_labels, classes, grid_of_beta[rows, None])

    both = _intervals(zero_shot, cosines, cache_labels, labels, max(alphas), betas)
    width = max(cosines.shape[1], classes)
    return _count(zero_shot, labels, alphas, both, votes, width)


def correct_for_votes(zero_shot: Tensor, votes: Tensor, labels: Tensor, alphas: Sequence[float]) -> Tensor:
    """Return how many images ``zero_shot + α · votes`` classifies rightly for each α, (len(alphas),).

    Args:
        zero_shot: Scaled zero-shot logits L (V, C).
        votes: Class affinities S ≥ 0 of the cache (V, C).
        labels: Class of each image (V,).
        alphas: Rising grid of α ≥ 0.
    """
    sure, possible = Leads(zero_shot, labels).meet(votes, max(alphas), 0.0)
    both = tuple(Intervals(found.low[None], found.high[None]) for found in (sure, possible))
    return _count(zero_shot, labels, alphas, both, lambda _, images: votes[images], votes.shape[1])[0]


def _count(
    zero_shot: Tensor,
    labels: Tensor,
    alphas: Sequence[float],
    both: Sequence[Intervals],
    votes: Callable[[Tensor, Tensor], Tensor],
    width: int,
) -> Tensor:
    """Count sure intervals (R, V) on the grid, and by the formula the pairs on which sure and possible differ.

    Args:
        zero_shot: Logits L (V, C).
        labels: Classes (V,).
        alphas: Rising grid.
        both: Intervals on which images are surely and possibly right.
        votes: Given row and image of some pairs, their votes (P, C).
        width: Numbers that a pair takes.
    """
    grid = torch.tensor(alphas, dtype=torch.float64, device=zero_shot.device)
    (first, stop), (first_possible, stop_possible) = (
        Intervals(found.low.double(), found.high.double()).on_grid(grid) for found in both
    )
    unsure = (first != first_possible) | (stop != stop_possible)
    correct = count_on_grid(first * ~unsure, stop * ~unsure, len(alphas))
    pairs = unsure.nonzero()
    for some in pairs.split(max(_CHUNK // width, 1)):
        rows, images = some.unbind(dim=1)
        logits, cache = zero_shot[images], votes(rows, images)
        for i, alpha in enumerate(alphas):
            right = (logits + alpha * cache).argmax(dim=1) == labels[images]
            correct[:, i].index_add_(0, rows, right.long())
    return correct


def _intervals(
    zero_shot: Tensor,
    cosines: Tensor,
    cache_labels: Tensor,
    labels: Tensor,
    alpha_max: float,
    betas: Sequence[float],
) -> tuple[Intervals, Intervals]:
    """Return for each β and image, (len(betas), V), where in α it is surely and where possibly right."""
    by_shot, empty = _by_shot(cosines, cache_labels, zero_shot.shape[1])
    tile = max(_TILE.get(cosines.device.type, _TILE["cuda"]) // max(by_shot[:, 0].numel(), 1), 1)
    rounding = 4 * max(betas) + 6 * _ANCHOR + len(by_shot)  # of exponent, products and sum, in units of eps
    error = rounding * torch.finfo(cosines.dtype).eps
    ends = cosines.new_empty(4, len(betas), len(labels))
    for start in range(0, len(labels), tile):
        own = slice(start, start + tile)
        leads = Leads(zero_shot[own], labels[own])
        row = 0
        for votes in _votes(by_shot[:, own].contiguous(), empty, betas):
            sure, possible = leads.meet(votes, alpha_max, error)
            ends[:, row : row + len(votes), own] = torch.stack([*sure, *possible])
            row += len(votes)
    return Intervals(ends[0], ends[1]), Intervals(ends[2], ends[3])


def _votes(distances: Tensor, empty: Tensor | None, betas: Sequence[float]) -> Iterator[Tensor]:
    """Yield the votes (b, v, C) of runs of consecutive β, by one exponential per run where β is evenly spaced.

    Args:
        distances: ``cosine − 1`` of each shot, image and class (K, v, C).
        empty: Where a class has no such shot, (K, 1, C); None if all have as many.
        betas: The grid.
    """
    step = betas[1] - betas[0] if len(betas) > 1 else 0.0
    even = all(abs(betas[0] + i * step - beta) < 1e-12 * max(1.0, abs(beta)) for i, beta in enumerate(betas))
    factor = torch.exp(step * distances) if even else None
    weights = torch.empty_like(distances)
    for start in range(0, len(betas), _ANCHOR):
        run = betas[start : start + _ANCHOR]
        votes = distances.new_empty(len(run), *distances.shape[1:])
        for i, beta in enumerate(run):
            if factor is None or i == 0:
                torch.mul(distances, beta, out=weights).exp_()
                if empty is not None:
                    weights.masked_fill_(empty, 0.0)
            else:
                weights.mul_(factor)
            torch.sum(weights, dim=0, out=votes[i])
        yield votes


def _by_shot(cosines: Tensor, cache_labels: Tensor, classes: int) -> tuple[Tensor, Tensor | None]:
    """Return ``cosine − 1`` as (K, V, C), shot by shot, and where a class has fewer than K shots."""
    order = cache_labels.argsort(stable=True)
    counts = torch.bincount(cache_labels, minlength=classes)
    shots = int(counts.max()) if len(cache_labels) else 0
    numbers = torch.arange(max(shots, 1), device=cosines.device)
    starts = counts.cumsum(0) - counts
    missing = numbers[:, None] >= counts
    columns = (starts + numbers[:, None]).masked_fill(missing, 0)
    if not shots:
        return cosines.new_zeros(1, len(cosines), classes), missing[:, None]
    gathered = cosines.T[order[columns]] - 1  # (K, C, V)
    return gathered.transpose(1, 2).contiguous(), missing[:, None] if bool(missing.any()) else None
