"""Sweeps with ``launch.jobs=2`` against ``launch.jobs=1``, in seconds of wall time on two cores.

``python -m benchmarks.launch_jobs`` runs 24 short runs (zero-shot and Tip-Adapter, about half a second each) both ways
in turn; ``--long 1`` adds 24 single-thread runs of about 9 s (CLIP-Adapter, 1,500 epochs), ten minutes. Two
workers import their libraries once each, which short runs do not earn back; long ones do. Wall time is the point here,
so the machine has to be quiet. The gate: both ways give the same scores.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import Figure, finish, options
from benchmarks.experiments import command, scores_below

SHORT = ("method=zero_shot,tip_adapter", "shots=1,2,4,8", "seed=1,2,3")
SEEDS = ",".join(map(str, range(1, 25)))
LONG = ("method=clip_adapter", "method.epochs=1500", "method.views=0", "shots=16", f"seed={SEEDS}")


def measure(name: str, cells: Sequence[str], pairs: int, bound: float) -> Figure:
    """Return how long two jobs at a time take as a multiple of one at a time.

    Raises:
        RuntimeError: If a score differs.
    """
    ratios, load = [], os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        fixed = ("-m", "trainer=cpu", "logger=none", f"paths.features={root}/features")
        command(*fixed[1:], "method=tip_adapter", f"paths.results={root}/warm")
        for pair in range(pairs):
            seconds = []
            for jobs in (1, 2):
                start = time.monotonic()
                command(*fixed, *cells, f"launch.jobs={jobs}", f"paths.results={root}/{pair}-{jobs}")
                seconds.append(time.monotonic() - start)
            if scores_below(root / f"{pair}-1") != scores_below(root / f"{pair}-2"):
                raise RuntimeError(f"{name}: the scores differ.")
            ratios.append(seconds[1] / seconds[0])
            print(f"{name}: jobs=1 {seconds[0]:.1f} s, jobs=2 {seconds[1]:.1f} s", flush=True)
    return Figure(name, sorted(ratios)[len(ratios) // 2], bound, "of jobs=1", ratios, load)


def main(argv: Sequence[str] | None = None) -> list[Figure]:
    chosen = options(__doc__, argv, long=0)
    os.environ["OMP_NUM_THREADS"] = "1"
    short = SHORT if not chosen.smoke else ("method=zero_shot", "shots=1", "seed=1,2")
    figures = [measure("short runs, launch.jobs=2", short, chosen.pairs, 1.8)]
    if chosen.long:
        figures.append(measure("long runs, launch.jobs=2", LONG, 1, 0.65))
    for figure in figures:
        print(figure)
    finish("launch_jobs", figures, chosen.smoke)
    return figures


if __name__ == "__main__":
    main()
