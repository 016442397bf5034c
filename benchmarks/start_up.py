"""What a command costs before it computes: help, composition of the configuration, tables of 2,000 runs.

Run ``python -m benchmarks.start_up`` from the top of the checkout. CPU seconds of the whole process, start of Python
included; median of the repeats after one that warms the file cache. A command counts only if it succeeds and prints
what it should, and, for the first two, if it has not imported torch.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.collect import write
from benchmarks.common import Figure, cpu_of_all, finish, options

HELP, TABLES = 1.0, 1.5
PROBE = """
import sys, runpy
sys.argv = ["mmadapt", *{arguments!r}]
try:
    runpy.run_module("mmadapt", run_name="__main__", alter_sys=True)
except SystemExit:
    pass
sys.exit("torch" in sys.modules)
"""


def measure(name: str, arguments: Sequence[str], expected: str, bound: float, repeats: int) -> Figure:
    """Return the CPU seconds of ``python -m ARGUMENTS``; infinite if it fails or does not print ``expected``."""
    command = [sys.executable, "-m", *arguments]
    values = []
    for _ in range(repeats + 1):
        before = cpu_of_all()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        values.append(cpu_of_all() - before)
        if done.returncode or expected not in done.stdout:
            print(f"{name}: FAILED, no figure\n{done.stderr}", flush=True)
            return Figure(name, float("inf"), bound, "s CPU")
    figure = Figure(name, statistics.median(values[1:]), bound, "s CPU", values[1:], os.getloadavg()[0])
    print(figure, flush=True)
    return figure


def is_light(arguments: Sequence[str]) -> bool:
    """Return whether a command of mmadapt leaves torch alone."""
    command = [sys.executable, "-c", PROBE.format(arguments=list(arguments))]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def main(argv: Sequence[str] | None = None) -> list[Figure]:
    chosen = options(__doc__, argv, runs=2000)
    runs = 20 if chosen.smoke else chosen.runs
    figures = []
    for option, expected in ((["--help"], "method"), (["--cfg", "job"], "_target_")):
        name = f"mmadapt {' '.join(option)}"
        if is_light(option):
            figures.append(measure(name, ["mmadapt", *option], expected, HELP, chosen.pairs))
        else:
            print(f"{name}: imports torch, MISSED")
            figures.append(Figure(name, float("inf"), HELP, "s CPU"))
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), runs)
        for name, view in (("all tables", []), ("one table", ["--view", "methods-by-data", "--shots", "16"])):
            arguments = ["mmadapt.collect", folder, *view]
            expected = "tip_adapter" if runs > 1000 else "zero_shot"
            figures.append(
                measure(f"collect, {runs} runs, {name}", arguments, expected, TABLES, chosen.pairs)
            )
    finish("start_up", figures, chosen.smoke)
    return figures


if __name__ == "__main__":
    main()
