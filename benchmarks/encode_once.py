"""Encoder calls of 15 runs (5 numbers of shots x 3 seeds) on one data set: encoded once against in every run.

Run ``python -m benchmarks.encode_once`` from the top of the checkout. Tip-Adapter with the embedded tiny CLIP on
rendered images, by the code that runs experiments; and the linear probe, which needs one view of the shots where
Tip-Adapter needs ten: those differ from run to run, so they bound what can be shared. The reference is the pattern
of the released repositories: nothing is kept between runs, here an empty store for each.

Calls are counted by the product (``cost.encoded``: images and prompts that went through a tower), so the ratio is
exact. The gate: all scores of all runs are equal. Features equal bit by bit, and a store that misses with another
backbone, template or transform, are tested in tests/test_store.py. CPU time of both sides is a second ratio.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.common import Outcome, cpu_of_all, finish, options
from benchmarks.experiments import run_here

GOAL, TIME_GOAL = 10.0, 8.0
Sweep = tuple[int, float, list[object]]


def sweep(root: Path, method: str, shots: Sequence[int], seeds: Sequence[int], *, share: bool) -> Sweep:
    """Return encoder calls, CPU seconds and scores of all runs."""
    calls, scores, start = 0, list[object](), cpu_of_all()
    for shot in shots:
        for seed in seeds:
            name = "all" if share else f"{shot}-{seed}"
            overrides = [f"method={method}", "data=shapes_form", "trainer=cpu", "logger=none", f"shots={shot}",
                         f"seed={seed}", f"paths.features={root}/features-{name}"]  # fmt: skip
            result = run_here(overrides, root / f"{'shared' if share else 'apart'}/{shot}shot/seed{seed}")
            calls += int(result.cost["encoded"])
            scores.append(result.scores["test"])
    return calls, cpu_of_all() - start, scores


def main(argv: Sequence[str] | None = None) -> list[Outcome]:
    chosen = options(__doc__, argv)
    torch.set_num_threads(1)
    shots, seeds = ((1,), (1, 2)) if chosen.smoke else ((1, 2, 4, 8, 16), (1, 2, 3))
    outcomes = []
    for method in ("tip_adapter",) if chosen.smoke else ("linear_probe", "tip_adapter"):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            if not chosen.smoke:  # renders the images of test, which both sides read
                sweep(root / "warm", method, shots[:1], seeds[:1], share=True)
            ours = sweep(root, method, shots, seeds, share=True)
            theirs = sweep(root, method, shots, seeds, share=False)
        error = 0.0 if ours[2] == theirs[2] else 1.0
        runs = f"{len(ours[2])} runs of {method}"
        calls = Outcome(f"encoder calls of {runs}", error, 0.0, GOAL, unit="calls")
        time = Outcome(f"seconds of {runs}", error, 0.0, TIME_GOAL)
        for outcome, column in ((calls, 0), (time, 1)):
            if not error:
                slow, fast = float(theirs[column]), float(ours[column])
                outcome.ratios, outcome.seconds = [slow / fast], (slow, fast)
                outcome.load = os.getloadavg()[0]
            print(outcome, flush=True)
        outcomes += [calls, time]
    finish("encode_once", outcomes, chosen.smoke)
    return outcomes


if __name__ == "__main__":
    main()
