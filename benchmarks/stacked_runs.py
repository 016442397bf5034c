"""R runs of CLIP-Adapter trained in a stack against the same runs one after the other.

Run ``OMP_NUM_THREADS=1 python -m benchmarks.stacked_runs`` from the top of the checkout. The references are plain
loops, and the runs as Lightning trains them. Seeds and learning rates differ, and at R = 165 the shots, as in a
sweep of 5 shots x 3 seeds x 11 rates; two epochs of cached features, batches of 32. A ratio counts only if top-1 and
negative log-likelihood of every run on val are within 1e-4 of the reference's.

What bounds the ratio on a CPU are the matrix products, which a stack does not make fewer; their share of a bare
step is measured and stored with the ratios.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import Outcome, compare, store
from benchmarks.synthetic_runs import BATCH, Problem, Spec, bare, by_lightning
from mmadapt.stack.lane import Run
from mmadapt.stack.train import train

GOAL, LIMIT = 3.0, 1e-4
SIZES = {"D=512 C=100": (512, 100), "D=64 C=100": (64, 100), "D=64 C=10": (64, 10)}
RATES = {"sgd": 2e-3, "adamw": 1e-3}


def specs(count: int, optimizer: str) -> list[Spec]:
    """Return runs that differ in seed and rate; a whole sweep of 165 differs in shots, too."""
    rate = RATES[optimizer]
    if count == 165:
        return [
            Spec(seed, shots, rate * 2.0 ** (i - 8))
            for shots in (1, 2, 4, 8, 16) for seed in (1, 2, 3) for i in range(11)
        ]  # fmt: skip
    return [Spec(1 + i % 4, 16, rate * 2.0 ** -(i // 4)) for i in range(count)]


def stacked(runs: list[Run]) -> list[Run]:
    """Train runs by the product's path."""
    train(runs)
    return runs


def measure(
    name: str, problem: Problem, runs: list[Spec], serial: Callable[[Run], Run], pairs: int
) -> Outcome:
    """Gate, time and print one comparison; runs are built before the clock starts."""

    def fresh() -> list[Run]:
        return [problem.run(spec) for spec in runs]

    return compare(
        name,
        lambda ready: problem.metrics([serial(run) for run in ready]),
        lambda ready: problem.metrics(stacked(ready)),
        lambda some, others: float((some - others).abs().max()),
        limit=LIMIT, goal=GOAL if len(runs) > 8 else 1.0, pairs=pairs, setup=fresh,
    )  # fmt: skip


def products(dim: int, classes: int, repeats: int = 300) -> float:
    """Return the CPU seconds of a step's seven matrix products alone: below that no stack of them gets."""
    x, hidden, slopes = (torch.randn(BATCH, width) for width in (dim, dim // 4, classes))
    down, up, texts = torch.randn(dim // 4, dim), torch.randn(dim, dim // 4), torch.randn(classes, dim)
    calls: list[Callable[[], Tensor]] = [
        partial(torch.mm, x, down.T), partial(torch.mm, hidden, up.T), partial(torch.mm, x, texts.T),
        partial(torch.mm, slopes, texts), partial(torch.mm, x, up), partial(torch.mm, x.T, hidden),
        partial(torch.mm, hidden.T, x),
    ]  # fmt: skip
    start = time.process_time()
    for _ in range(repeats):
        for call in calls:
            call()
    return (time.process_time() - start) / repeats


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=list(SIZES)[:2], choices=list(SIZES))
    parser.add_argument("--optimizers", nargs="+", default=["adamw"])
    parser.add_argument("--runs", type=int, nargs="+", default=[32])
    parser.add_argument("--references", nargs="+", default=["bare"])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument(
        "--all", action="store_true", help="all sizes, 1 and 8 runs, runs trained by Lightning"
    )
    options = parser.parse_args()
    if options.all:
        options.sizes, options.optimizers = list(SIZES), ["sgd", "adamw"]
        options.runs, options.references = [1, 8, 32], ["bare", "lightning"]
    torch.set_num_threads(1)
    outcomes: list[Outcome] = []
    bounds: dict[str, Any] = {}
    for size in options.sizes:
        floor = products(*SIZES[size])
        for optimizer in options.optimizers:
            problem = Problem(*SIZES[size], optimizer, epochs=2)
            for count in options.runs:
                runs = specs(count, optimizer)
                steps = problem.epochs * sum(-(-spec.shots * problem.classes // BATCH) for spec in runs)
                for reference in options.references:
                    serial = bare if reference == "bare" else by_lightning
                    name = f"{size} {optimizer} R={count} against {reference}"
                    outcome = measure(name, problem, runs, serial, options.pairs)
                    outcomes.append(outcome)
                    slow, fast = (1e6 * seconds / steps for seconds in outcome.seconds)
                    bounds[name] = {"us_per_step": [slow, fast], "products_us": 1e6 * floor}
                    bound = slow / floor / 1e6
                    print(f"  {slow:.0f} -> {fast:.0f} us a step and run; products alone {1e6 * floor:.0f} us: "
                          f"at most {bound:.1f}x", flush=True)  # fmt: skip
    print(f"stored in {store('stacked_runs', outcomes, steps=bounds)}")


if __name__ == "__main__":
    main()
