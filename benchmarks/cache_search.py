"""The α/β search of cache methods against the released loop, at the same grid points.

Run ``OMP_NUM_THREADS=1 python -m benchmarks.cache_search`` from the top of the checkout. The grid is the released
one in α (20 points) and a part of it in β: both sides are linear in the number of β.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import Outcome, compare, store
from mmadapt.methods.cache_search import correct_on_grid
from mmadapt.methods.tip_adapter import search_grid

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


def measure(classes: int, images: int, betas: int, pairs: int) -> Outcome:
    """Gate, time and print one comparison."""
    generator = torch.Generator().manual_seed(0)

    def around(centres: Tensor, spread: float) -> Tensor:
        noise = F.normalize(torch.randn(centres.shape, generator=generator), dim=-1)
        return F.normalize(centres + spread * noise, dim=-1)

    centres = F.normalize(torch.randn(classes, WIDTH, generator=generator), dim=-1)
    cache_labels = torch.arange(classes).repeat_interleave(SHOTS)
    labels = torch.randint(classes, (images,), generator=generator)
    queries, keys, texts = (
        around(centres[labels], 3.0),
        around(centres[cache_labels], 3.0),
        around(centres, 3.0),
    )
    grid = search_grid(3, 20), search_grid(7, 200)[:: 200 // betas][:betas]

    def fast() -> Tensor:
        return correct_on_grid(100 * queries @ texts.T, queries @ keys.T, cache_labels, labels, *grid)

    return compare(
        f"alpha/beta search, C={classes}, N={len(keys)}, {images} images, {betas} x 20 points",
        lambda: released(queries, keys, texts, cache_labels, labels, *grid),
        fast,
        lambda some, others: float((some - others).abs().max()),
        limit=0.0,
        goal=GOAL,
        pairs=pairs,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=5)
    arguments = parser.parse_args()
    outcomes = [measure(100, 800, 5, arguments.pairs), measure(1000, 300, 2, arguments.pairs)]
    print(f"stored in {store('cache_search', outcomes)}")


if __name__ == "__main__":
    main()
