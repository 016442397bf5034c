"""What the framework costs per training step on cached features, against the same steps in a bare loop.

Run ``OMP_NUM_THREADS=1 python -m benchmarks.overhead`` from the top of the checkout. One run as an experiment trains
it against a plain PyTorch loop, for steps of about 1, 3 and 30 ms, and for epochs of a single step, where Lightning's
cost per epoch is a cost per step. A ratio counts only if the weights after 100 steps or more are equal; 1.0 is no
overhead, a goal of 1.3x is a ratio of 1 / 1.3.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from benchmarks.common import Outcome, compare, relative, store
from benchmarks.synthetic_runs import Problem, Run, Spec, bare, by_lightning

LIMIT, GOAL = 1e-5, 1 / 1.3
LONG = "30 ms"
BATCHES = {"1 ms": (48, 16), "3 ms": (200, 16), "30 ms": (1600, 64), "3 ms, one-step epochs": (200, 2)}


def measure(name: str, problem: Problem, spec: Spec, pairs: int) -> Outcome:
    """Gate, time and print one comparison."""

    def weights(run: Run) -> list[Tensor]:
        return [parameter.detach() for parameter in run.method.trainable_parameters()]

    outcome = compare(
        name, lambda run: weights(bare(run)), lambda run: weights(by_lightning(run)), relative,
        limit=LIMIT, goal=GOAL, pairs=pairs, setup=lambda: problem.run(spec),
    )  # fmt: skip
    if outcome.ratios:
        steps = problem.epochs * -(-spec.shots * problem.classes // spec.batch)
        plain_ms, product_ms = (1e3 * seconds / steps for seconds in outcome.seconds)
        print(
            f"  {steps} steps of {plain_ms:.2f} ms bare, {product_ms:.2f} ms: overhead {1 / outcome.ratio:.3f}x",
            flush=True,
        )
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--all", action="store_true", help="also steps of 30 ms")
    options = parser.parse_args()
    torch.set_num_threads(1)
    outcomes = []
    for name, (batch, shots) in BATCHES.items():
        if name == LONG and not options.all:
            continue
        problem = Problem(512, 100, "sgd", epochs=-(-100 // -(-100 * shots // batch)))
        outcomes.append(measure(f"lightning, {name}", problem, Spec(1, shots, 2e-3, batch), options.pairs))
    print(f"stored in {store('overhead', outcomes)}")


if __name__ == "__main__":
    main()
