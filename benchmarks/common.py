"""How a claim is measured: same numbers first, then pairs of runs in single-thread CPU time.

Wall time on a shared machine is worthless: neighbours decide it. CPU time of one thread, reference and
candidate in turn, ranks rightly; the ratio of each pair cancels what drifts. A ratio counts only if both
give the same numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

# Without bytecode every process that a benchmark starts would compile its libraries, which no user's does twice.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

RESULTS = Path(__file__).parent / "results"
SLACK = 0.8
"""A goal is missed below this share of it, so that noise does not turn a pass into a failure."""


@dataclass
class Outcome:
    """One line of a benchmark.

    Attributes:
        name: What was compared.
        error: Difference of the numbers that both sides compute.
        limit: Largest difference with which a ratio counts.
        goal: Ratio aimed at; 0 if there is none.
        ratios: Reference over candidate, of each pair; empty if the numbers differ.
        seconds: Median CPU seconds of reference and candidate.
        load: Load average of the machine.
        unit: What was counted, seconds of CPU or wall time or calls.
        note: What the ratio includes and what in it is not measured.
    """

    name: str
    error: float
    limit: float
    goal: float
    ratios: list[float] = field(default_factory=list)
    seconds: tuple[float, float] = (0.0, 0.0)
    load: float = 0.0
    unit: str = "s CPU"
    note: str = ""

    @property
    def ratio(self) -> float:
        """Median over the pairs."""
        return statistics.median(self.ratios)

    def __str__(self) -> str:
        gate = f"{self.name}: difference {self.error:.1e} (limit {self.limit:.0e})"
        if not self.ratios:
            return f"{gate}: NOT EQUAL, no ratio"
        verdict = "" if self.ratio >= self.goal else ", MISSED"
        if SLACK * self.goal <= self.ratio < self.goal:
            verdict = ", just short"
        spread = f"{short(min(self.ratios))}-{short(max(self.ratios))} in {len(self.ratios)} pairs"
        seconds = f"{self.seconds[0]:.4g} -> {self.seconds[1]:.4g} {self.unit}, load {self.load:.1f}"
        goal = f", goal {self.goal:.3g}x{verdict}" if self.goal else ""
        line = f"{gate}: {short(self.ratio)}x ({spread}){goal}; {seconds}"
        return f"{line}\n  {self.note}" if self.note else line


@dataclass
class Figure:
    """A measured figure with an upper bound, such as seconds or a slope.

    Attributes:
        name: What was measured.
        value: The figure; the median, if it was measured repeatedly.
        bound: Largest value aimed at.
        unit: Unit of the figure.
        values: All measured values, or the points behind it.
        load: Load average of the machine.
    """

    name: str
    value: float
    bound: float
    unit: str
    values: list[Any] = field(default_factory=list)
    load: float = 0.0

    def __str__(self) -> str:
        verdict = "" if self.value <= self.bound else ", MISSED"
        values = ", ".join(v if isinstance(v, str) else f"{v:.3g}" for v in self.values)
        line = f"{self.name}: {self.value:.3g} {self.unit}, goal at most {self.bound:.3g}{verdict}"
        return f"{line.replace(' ,', ',')}; {values}; load {self.load:.1f}"


def short(ratio: float) -> str:
    """Return a ratio with the digits that mean something."""
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:,.0f}" if ratio >= 1000 else f"{ratio:.1f}"


def options(doc: str | None, argv: Sequence[str] | None, **defaults: int) -> argparse.Namespace:
    """Read the command line that all modules share: ``--smoke``, ``--pairs`` and whole numbers of the module."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=doc, formatter_class=formatter)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, nothing stored: does it still run?")
    for name, value in {"pairs": 5, **defaults}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    found = parser.parse_args(argv)
    if found.smoke:
        found.pairs = 1
    return found


def finish(benchmark: str, outcomes: Sequence[Outcome | Figure], smoke: bool, **more: Any) -> None:
    """Store what was measured, unless it was a smoke run."""
    if smoke:
        return
    ratios = [outcome for outcome in outcomes if isinstance(outcome, Outcome)]
    figures = [asdict(outcome) for outcome in outcomes if isinstance(outcome, Figure)]
    print(f"stored in {store(benchmark, ratios, figures=figures, **more)}")


def cpu_of_all() -> float:
    """Return the CPU seconds of this process and of its children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def compare(
    name: str,
    reference: Callable[..., Any],
    candidate: Callable[..., Any],
    difference: Callable[[Any, Any], float],
    *,
    limit: float,
    goal: float,
    pairs: int = 5,
    setup: Callable[[], Any] | None = None,
    share: float = 1.0,
) -> Outcome:
    """Check that both return the same numbers, then time them in turn on one thread.

    Args:
        name: What is compared.
        reference: A plain version of the formula.
        candidate: What the product does.
        difference: Distance of their results; the warm-up run of both is what it sees.
        limit: Largest difference accepted.
        goal: Ratio aimed at.
        pairs: Number of pairs.
        setup: Makes, before each call and not timed, what the call is given.
        share: Part of the candidate's work that the reference does, where its time is linear in the work; its
            seconds are divided by it.
    """
    torch.set_num_threads(1)

    def ready(function: Callable[..., Any]) -> Callable[[], Any]:
        return function if setup is None else partial(function, setup())

    outcome = Outcome(name, difference(ready(reference)(), ready(candidate)()), limit, goal)
    if outcome.error <= limit:
        times = [(cpu_seconds(ready(reference)) / share, cpu_seconds(ready(candidate))) for _ in range(pairs)]
        outcome.ratios = [slow / fast for slow, fast in times]
        slow, fast = (statistics.median(column) for column in zip(*times, strict=True))
        outcome.seconds, outcome.load = (slow, fast), os.getloadavg()[0]
    print(outcome, flush=True)
    return outcome


def cpu_seconds(function: Callable[[], Any]) -> float:
    """Return the CPU seconds that one call takes."""
    start = time.process_time()
    function()
    return time.process_time() - start


def relative(some: list[torch.Tensor], others: list[torch.Tensor]) -> float:
    """Return the largest relative error among tensors."""
    return max(float((a - b).norm() / b.norm()) for a, b in zip(some, others, strict=True))


def peak_of(module: str, *arguments: str) -> float:
    """Run ``python -m MODULE ARGUMENTS`` in a process of its own and return the last number it prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout.split()[-1])


def peak_mib(function: Callable[[], Any]) -> float:
    """Return how far resident memory rises above its level before the call, in MiB. Linux only."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    function()
    return (_status("VmHWM") - before) / 1024


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1])
    raise KeyError(key)


def store(benchmark: str, outcomes: list[Outcome], **more: Any) -> Path:
    """Append the outcomes to a file named after the benchmark and the day, and return its path."""
    now = datetime.now(UTC)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{benchmark}-{now:%Y-%m-%d}.json"
    known = json.loads(path.read_text()) if path.exists() else []
    entry = {
        "time": now.isoformat(timespec="seconds"),
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "outcomes": [asdict(outcome) for outcome in outcomes],
        **more,
    }
    path.write_text(json.dumps([*known, entry], indent=1) + "\n")
    return path
