"""The α/β search of cache methods against the released loop, at the same grid points.

Run ``OMP_NUM_THREADS=1 python -m benchmarks.cache_search`` from the top of the checkout. The candidate searches the
released grid of 200 × 20 points. The released loop would take minutes for it: it is run on some β spread over the
grid, where both must count the same, and its time, which is linear in their number, taken in proportion. A
second line times the exact optimum over the real α against the same loop; it may not be worse than any point.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import Outcome, compare, store
from mmadapt.methods.parts.cache import search_grid
from mmadapt.methods.parts.cache_search import correct_on_grid, search_exact_alpha

SHOTS, WIDTH, GOAL = 16, 512, 50.0


def released(
    queries: Tensor, keys: Tensor, texts: Tensor, cache_labels: Tensor, labels: Tensor,
    alphas: list[float], betas: list[float],
) -> Tensor:  # fmt: skip
    """Count hits as the released loop does: affinities and their product with one-hot labels at each pair."""
    values = F.one_hot(cache_labels, len(texts)).float()
    zero_shot = 100 * queries @ texts.T
    rows = []
    for beta in betas:
        row = []
        for alpha in alphas:
            votes = torch.exp(-beta + beta * (queries @ keys.T)) @ values
            row.append(int(((zero_shot + alpha * votes).argmax(dim=1) == labels).sum()))
        rows.append(row)
    return torch.tensor(rows)


def measure(classes: int, images: int, width: int, betas: int, pairs: int) -> list[Outcome]:
    """Gate, time and print the comparisons at one size, the reference on so many of the 200 β."""
    generator = torch.Generator().manual_seed(0)

    def around(centres: Tensor, spread: float) -> Tensor:
        noise = F.normalize(torch.randn(centres.shape, generator=generator), dim=-1)
        return F.normalize(centres + spread * noise, dim=-1)

    centres = F.normalize(torch.randn(classes, width, generator=generator), dim=-1)
    cache_labels = torch.arange(classes).repeat_interleave(SHOTS)
    labels = torch.randint(classes, (images,), generator=generator)
    queries, keys, texts = (
        around(centres[labels], 3.0),
        around(centres[cache_labels], 3.0),
        around(centres, 3.0),
    )
    alphas, grid = search_grid(3, 20), search_grid(7, 200)
    some = [(2 * i + 1) * len(grid) // (2 * betas) for i in range(betas)]

    def plain() -> Tensor:
        return released(queries, keys, texts, cache_labels, labels, alphas, [grid[i] for i in some])

    def fast() -> Tensor:
        return correct_on_grid(100 * queries @ texts.T, queries @ keys.T, cache_labels, labels, alphas, grid)[
            some
        ]

    def exact() -> int:
        logits, cosines = 100 * queries @ texts.T, queries @ keys.T
        return search_exact_alpha(logits, cosines, cache_labels, labels, 3.0, grid).correct

    size = f"C={classes}, N={len(keys)}, {images} images, D={width}; reference on {betas} of 200 beta"
    share = betas / len(grid)
    return [
        compare(
            f"alpha/beta search, 200 x 20 points, {size}", plain, fast,
            lambda a, b: float((a - b).abs().max()), limit=0.0, goal=GOAL, pairs=pairs, share=share,
        ),
        compare(
            f"exact alpha, 200 beta, against the loop of 200 x 20 points, {size}", plain, exact,
            lambda a, b: max(0.0, float(a.max() - b)), limit=0.0, goal=GOAL, pairs=pairs, share=share,
        ),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--all", action="store_true", help="also 3000 images of 1024 dimensions")
    arguments = parser.parse_args()
    sizes = [(100, 800, 512, 2), (1000, 300, 512, 1), *[(100, 3000, 1024, 2)] * arguments.all]
    outcomes = [outcome for size in sizes for outcome in measure(*size, arguments.pairs)]
    print(f"stored in {store('cache_search', outcomes)}")


if __name__ == "__main__":
    main()
