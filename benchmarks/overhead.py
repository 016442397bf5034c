"""What the framework costs per training step on cached features, against the same steps in a bare loop.

Run ``OMP_NUM_THREADS=1 python -m benchmarks.overhead`` from the top of the checkout. ``stack``: the stacked path
against a loop over the same gradients with the optimiser written out, weights of several runs in two tensors.
``lightning``: one run as an experiment trains it alone against a plain PyTorch loop, for steps of about 1, 3 and
30 ms, and for epochs of a single step, where Lightning's cost per epoch is a cost per step. A ratio counts only if
the weights after 100 steps or more are equal; 1.0 is no overhead, a goal of 1.05x is a ratio of 1 / 1.05.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.common import Outcome, compare, relative, store
from benchmarks.synthetic_runs import Problem, Spec, bare, by_lightning
from mmadapt.methods.clip_adapter_gradients import visual_gradients
from mmadapt.stack.lane import Run
from mmadapt.stack.train import train

LIMIT, FAST, LIGHTNING = 1e-5, 1 / 1.05, 1 / 1.3
LONG = "30 ms"
STACKS = {"1 ms": (2, 512, 16), "3 ms": (6, 512, 16), "30 ms": (60, 512, 4), "1 ms, D=64": (24, 64, 32)}
"""Runs, width and epochs of 25 steps; a stack's fixed cost per run is part of it."""
BATCHES = {"1 ms": (48, 16), "3 ms": (200, 16), "30 ms": (1600, 64), "3 ms, one-step epochs": (200, 2)}


def bare_stack(runs: list[Run]) -> list[Run]:
    """Train runs of equal shots in one loop with nothing around it: SGD with momentum at constant rates."""
    method, (features, labels) = runs[0].method, runs[0].data.support
    formula = visual_gradients(method.text_features, method.scale, method.ratio, method.final_relu)
    names = ("down.weight", "up.weight")
    weights = {n: torch.stack([run.method.get_parameter(n).detach() for run in runs]) for n in names}
    buffers = {n: torch.zeros_like(weight) for n, weight in weights.items()}
    rates = torch.tensor([run.method.optimizer.keywords["lr"] for run in runs])[:, None, None]
    views, count, dim = features.shape
    flat = features.view(-1, dim)
    starts = [
        torch.randint(views, (count,), generator=torch.Generator().manual_seed(run.data.seed)) for run in runs
    ]
    for epoch in range(runs[0].epochs):
        generators = [torch.Generator().manual_seed(run.data.seed * 1_000_003 + epoch) for run in runs]
        orders = [torch.randperm(count, generator=generator) for generator in generators]
        rows = torch.stack(
            [(start[o] + epoch) % views * count + o for start, o in zip(starts, orders, strict=True)]
        )
        own = labels[torch.stack(orders)]
        size = runs[0].data.batch_size
        for i in range(0, count, size):
            chosen = rows[:, i : i + size]
            batch = flat.index_select(0, chosen.reshape(-1)).view(*chosen.shape, dim)
            _, gradients = formula(weights, batch, own[:, i : i + size])
            for n in names:
                gradients[n].add_(weights[n], alpha=5e-4)
                buffers[n].mul_(0.9).add_(gradients[n])
                weights[n].addcmul_(buffers[n], rates, value=-1)
    for row, run in enumerate(runs):
        for n in names:
            run.method.get_parameter(n).data = weights[n][row].clone()
    return runs


def weights_of(runs: list[Run]) -> list[Tensor]:
    """Return all learned weights."""
    return [parameter.detach() for run in runs for parameter in run.method.trainable_parameters()]


def measure(
    name: str, problem: Problem, specs: list[Spec], plain: Callable[[list[Run]], list[Run]],
    product: Callable[[list[Run]], object], goal: float, pairs: int,
) -> Outcome:  # fmt: skip
    """Gate, time and print one comparison."""

    def product_weights(runs: list[Run]) -> list[Tensor]:
        product(runs)
        return weights_of(runs)

    outcome = compare(
        name, lambda runs: weights_of(plain(runs)), product_weights, relative,
        limit=LIMIT, goal=goal, pairs=pairs, setup=lambda: [problem.run(spec) for spec in specs],
    )  # fmt: skip
    if outcome.ratios:
        steps = problem.epochs * -(-specs[0].shots * problem.classes // specs[0].batch)
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
    parser.add_argument("--paths", nargs="+", default=["stack", "lightning"])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--all", action="store_true", help="also steps of 30 ms")
    options = parser.parse_args()
    torch.set_num_threads(1)
    outcomes: list[Outcome] = []
    for name, (count, dim, epochs) in STACKS.items() if "stack" in options.paths else ():
        if name == LONG and not options.all:
            continue
        problem = Problem(dim, 100, "sgd", epochs=epochs, schedule=False)
        specs = [Spec(1, 8, 2e-3 / (1 + i)) for i in range(count)]

        def blocked(runs: list[Run], size: int = count) -> None:
            train(runs, block=size)  # as the loop: all in step

        outcomes.append(
            measure(f"stack, {name}, R={count}", problem, specs, bare_stack, blocked, FAST, options.pairs)
        )
    for name, (batch, shots) in BATCHES.items() if "lightning" in options.paths else ():
        if name == LONG and not options.all:
            continue
        steps = -(-100 * shots // batch)
        problem = Problem(512, 100, "sgd", epochs=-(-100 // steps))
        outcomes.append(
            measure(
                f"lightning, {name}", problem, [Spec(1, shots, 2e-3, batch)],
                lambda runs: [bare(run) for run in runs], lambda runs: [by_lightning(run) for run in runs],
                LIGHTNING, options.pairs,
            )
        )  # fmt: skip
    print(f"stored in {store('overhead', outcomes)}")


if __name__ == "__main__":
    main()
