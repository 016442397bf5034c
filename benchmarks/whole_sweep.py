"""A whole sweep, data sets x shots x seeds x feature methods, to the final table, against one process per run.

Run ``OMP_NUM_THREADS=1 python -m benchmarks.whole_sweep`` from the top of the checkout. Ours is one command
from an empty store of features, and then ``mmadapt.collect``: start of Python, imports,
rendering, encoding, training, scoring and the table are all in it. The reference is the same product run as
shell loops run the
released code: a process for every run, which keeps no features (an empty store for each). A few of its runs are
measured, one per method, and the mean is multiplied by the number of runs: the ratio is extrapolated. CPU
seconds, children
included. The gate: the measured runs have the scores that they have in the sweep, to 1e-4.

The default takes 2 data sets (105 runs each); ``--full 1`` takes 11 rendered worlds, 5 shots, 3 seeds and 7 methods.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import Outcome, cpu_of_all, finish, options
from benchmarks.experiments import command, scores_below

GOAL, LIMIT = 50.0, 1e-4
METHODS = (
    "zero_shot",
    "linear_probe",
    "clip_adapter",
    "tip_adapter",
    "tip_adapter_f",
    "mm_adapter",
    "xmadapter",
)
WORLDS = ("shapes_form", "shapes_surface", "shapes_colour", "shapes_count", "shapes_pair", "shapes", "shapes_night",
          "shapes_foggy", "shapes_blurry", "shapes_noise", "shapes_sketch")  # fmt: skip


def furthest(some: dict[str, Any], others: dict[str, Any]) -> float:
    """Return the largest difference of top-1 and likelihood between equal runs."""
    keys = ("top1", "nll")
    pairs = [(some[run][name], others[run][name]) for run in some for name in some[run]]
    return max(abs(float(a[key]) - float(b[key])) for a, b in pairs for key in keys)


def main(argv: Sequence[str] | None = None) -> list[Outcome]:
    chosen = options(__doc__, argv, worlds=2, full=0)
    worlds = WORLDS if chosen.full else WORLDS[: chosen.worlds]
    shots, seeds, methods = ("1", "2", "4", "8", "16"), ("1", "2", "3"), METHODS
    if chosen.smoke:
        worlds, shots, seeds, methods = WORLDS[:1], ("1",), ("1", "2"), ("zero_shot", "tip_adapter")
    runs = len(worlds) * len(shots) * len(seeds) * len(methods)
    fixed = ("trainer=cpu", "logger=none")
    with tempfile.TemporaryDirectory() as folder:
        root, start = Path(folder), cpu_of_all()
        command("-m", *fixed, f"data={','.join(worlds)}", f"method={','.join(methods)}", f"shots={','.join(shots)}",
                f"seed={','.join(seeds)}", f"paths.results={root}/ours",
                f"paths.features={root}/features")  # fmt: skip
        table = ["-m", "mmadapt.collect", f"{root}/ours/main"]

        text = subprocess.run([sys.executable, *table], capture_output=True, text=True, check=True).stdout
        ours = cpu_of_all() - start
        middle, times = shots[len(shots) // 2], []
        for number, method in enumerate(methods[-1:] if chosen.smoke else methods):
            before = cpu_of_all()
            command(*fixed, f"data={worlds[0]}", f"method={method}", f"shots={middle}", "seed=1",
                    f"paths.results={root}/theirs", f"paths.features={root}/features-{number}")  # fmt: skip
            times.append(cpu_of_all() - before)
        found, alone = scores_below(root / "ours"), scores_below(root / "theirs")
        complete = len(found) == runs and all(method in text for method in methods)
        error = furthest(alone, found) if complete else float("inf")
    theirs = runs * sum(times) / len(times)
    outcome = Outcome(f"{runs} runs to the table (extrapolated)", error, LIMIT, GOAL, load=os.getloadavg()[0])
    if error <= LIMIT:
        outcome.ratios, outcome.seconds = [theirs / ours], (theirs, ours)
        outcome.note = (
            f"ours {ours:.0f} s CPU measured, {ours / runs:.2f} each; a process per run "
            f"{min(times):.1f}-{max(times):.1f} s CPU in {len(times)} runs x {runs}, imports and encoding in both"
        )
    print(outcome, flush=True)
    finish("whole_sweep", [outcome], chosen.smoke, runs=runs, measured=times)
    return [outcome]


if __name__ == "__main__":
    main()
