"""How CPU time grows with classes, shots and test images: slopes of log time over log size.

Run ``OMP_NUM_THREADS=1 python -m benchmarks.growth`` from the top of the checkout. A slope of 1 is proportional.
Each point is the fastest of the repeats in CPU seconds; the slope is the least-squares fit over all points,
printed with
them. Fixed costs flatten the small end of a curve, so the points matter more than the slope.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch.nn import functional as F

from benchmarks.collect import measure as collect_seconds
from benchmarks.collect import write
from benchmarks.common import Figure, cpu_seconds, finish, options
from benchmarks.synthetic_runs import Problem, Spec, by_lightning
from mmadapt.methods.parts.cache import search_grid
from mmadapt.methods.parts.cache_search import correct_on_grid
from mmadapt.metrics import Scorer
from mmadapt.training.feature_data import EVAL_BATCH

GOAL, DIM = 1.05, 512
Point = Callable[[], object]


def scoring(images: int, classes: int) -> Point:
    """Score ready logits."""
    logits, labels = torch.randn(images, classes), torch.arange(images) % classes
    return lambda: Scorer(classes).update(logits, labels)


def search(classes: int, shots: int, images: int) -> Point:
    """Search two values of beta and all of alpha on val."""
    texts, keys, queries = (
        F.normalize(torch.randn(n, DIM), dim=-1) for n in (classes, classes * shots, images)
    )
    own, labels = torch.arange(classes).repeat_interleave(shots), torch.arange(images) % classes
    grid = search_grid(3, 20), search_grid(7, 2)
    return lambda: correct_on_grid(100 * queries @ texts.T, queries @ keys.T, own, labels, *grid)


def votes(classes: int, shots: int, images: int) -> Point:
    """Return Tip-Adapter's logits, in the batches in which a run scores test images."""
    from benchmarks.tip_adapter_f import Problem as Cache

    method = Cache(DIM, classes, shots, 1, 1).run().method
    features = torch.randn(images, DIM)
    return lambda: [method.logits(batch).detach() for batch in features.split(EVAL_BATCH)]


def epoch(classes: int, shots: int) -> Point:
    """Train an epoch of CLIP-Adapter."""
    problem = Problem(DIM, classes, "sgd", epochs=1)
    return lambda: by_lightning(problem.run(Spec(1, shots, 2e-3)))


def slope(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """Return the least-squares slope of log seconds over log sizes."""
    xs, ys = ([math.log(v) for v in values] for values in (sizes, seconds))
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / sum((a - x) ** 2 for a in xs)


def fitted(name: str, sizes: Sequence[int], point: Callable[[int], float]) -> Figure:
    """Measure every size and print the slope."""
    seconds = [point(size) for size in sizes]
    texts = [f"{size}: {1e3 * value:.3g} ms" for size, value in zip(sizes, seconds, strict=True)]
    figure = Figure(name, slope(sizes, seconds), GOAL, "slope", texts, os.getloadavg()[0])
    print(figure, flush=True)
    return figure


def fastest(make: Callable[[int], Point], repeats: int) -> Callable[[int], float]:
    """Return what measures a size: one call to warm up, then the fastest of the repeats."""

    def point(size: int) -> float:
        torch.manual_seed(0)
        call = make(size)
        call()
        return min(cpu_seconds(call) for _ in range(repeats))

    return point


def tables(runs: int, repeats: int) -> float:
    """Return the CPU seconds of all tables of some runs."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), runs)
        return collect_seconds(Path(folder), [], repeats)[0]


def main(argv: Sequence[str] | None = None) -> list[Figure]:
    chosen = options(__doc__, argv)
    torch.set_num_threads(1)
    classes, shots, images = (10, 32, 100, 316, 1000), (1, 2, 4, 8, 16), (1000, 7071, 50000)
    files, few = (100, 450, 2000), 200
    if chosen.smoke:
        classes, shots, images, files, few = (10, 20), (1, 2), (100, 200), (10, 20), 20
    cases: list[tuple[str, Sequence[int], Callable[[int], Point]]] = [
        ("classes: metrics of 2000 logits", classes, lambda c: scoring(10 * few, c)),
        ("classes: search of alpha and beta, 16 shots", classes, lambda c: search(c, 16, few)),
        ("classes: Tip-Adapter's logits, 16 shots", classes, lambda c: votes(c, 16, few)),
        ("classes: CLIP-Adapter's epoch, 4 shots", classes, lambda c: epoch(c, 4)),
        ("shots: search of alpha and beta, 100 classes", shots, lambda k: search(few // 2, k, few)),
        ("shots: Tip-Adapter's logits, 100 classes", shots, lambda k: votes(few // 2, k, few)),
        ("shots: CLIP-Adapter's epoch, 100 classes", shots, lambda k: epoch(few // 2, k)),
        ("test images: metrics, 200 classes", images, lambda n: scoring(n, few)),
        ("test images: Tip-Adapter's logits, 100 classes, 4 shots", images, lambda n: votes(few // 2, 4, n)),
    ]
    figures = [fitted(name, sizes, fastest(make, chosen.pairs)) for name, sizes, make in cases]
    figures.append(fitted("result files: all tables", files, lambda n: tables(n, min(chosen.pairs, 3))))
    finish("growth", figures, chosen.smoke)
    return figures


if __name__ == "__main__":
    main()
