"""The dry run: every job of a sweep and what it would do, with an estimate from results that lie there already."""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmadapt.results import RESULT_FILE
from mmadapt.sweeps.plan import Cell

_SHOTS = re.compile(r"(\d+)shots?")
_OPEN = ("to do", "failed before")
_KINDS = ("other seeds", "other numbers of shots", "other data sets", "other backbones")


@dataclass(frozen=True)
class Estimate:
    """Seconds of computing of one job, and which results they are the mean of."""

    seconds: float
    source: str


class Costs:
    """What finished runs of a results folder took, to estimate others by.

    Start-up is not in it, and another machine, batch size or number of epochs is not corrected for.
    """

    def __init__(self, root: Path, methods: Iterable[str]) -> None:
        """Read the results of some methods below ``paths.results``; unreadable ones are passed over."""
        self._known: list[tuple[tuple[str, str, str, int], float]] = []
        wanted = set(methods)
        for folder, _, files in os.walk(root):
            path = Path(folder)
            if RESULT_FILE in files and len(path.parts) > 5 and path.parts[-3] in wanted:
                self._read(path)

    def _read(self, folder: Path) -> None:
        clip, data, method, shots = folder.parts[-5:-1]
        try:
            cost = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))["cost"]
            seconds = sum(float(value) for key, value in cost.items() if key.endswith("_seconds"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return
        if match := _SHOTS.fullmatch(shots):
            self._known.append(((clip, data, method, int(match[1])), seconds))

    def estimate(self, place: tuple[str, str, str, int]) -> Estimate | None:
        """Return the mean over the nearest finished runs of the method, or None if there are none.

        Nearest: another seed, then the nearest number of shots, then another data set, then another backbone.
        """
        clip, data, method, shots = place

        def distance(other: tuple[str, str, str, int]) -> tuple[bool, bool, float]:
            return other[0] != clip, other[1] != data, abs(math.log2(other[3]) - math.log2(shots))

        known = [(distance(other), seconds) for other, seconds in self._known if other[2] == method]
        if not known:
            return None
        nearest = min(near for near, _ in known)
        values = [seconds for near, seconds in known if near == nearest]
        kind = 3 if nearest[0] else 2 if nearest[1] else 1 if nearest[2] else 0
        return Estimate(sum(values) / len(values), _KINDS[kind])


def print_plan(cells: Sequence[Cell], results: Path, jobs: int) -> None:
    """Print the state of every job, the counts and the estimated cost of what is open."""
    for cell in cells:
        shown = "/".join(cell.run_dir.parts[-6:])
        print(f"{cell.state:<14}{shown}" + (f": {cell.reason}" if cell.reason else ""))
    counts = Counter[str](cell.state for cell in cells)
    listed = ", ".join(
        f"{counts[state]} {state}" for state in ("done", *_OPEN, "running", "refused") if counts[state]
    )
    print(f"{len(cells)} {'job' if len(cells) == 1 else 'jobs'}: {listed}. Nothing was computed or written.")
    todo = [cell for cell in cells if cell.state in _OPEN]
    if todo:
        print(_cost(todo, Costs(results, {cell.place[2] for cell in todo}), jobs))


def _cost(todo: Sequence[Cell], costs: Costs, jobs: int) -> str:
    found = [costs.estimate(cell.place) for cell in todo]
    known = [estimate for estimate in found if estimate is not None]
    unknown = len(found) - len(known)
    if not known:
        return "Estimated cost: unknown, no finished run of these methods lies in the results folder."
    total = sum(estimate.seconds for estimate in known)
    sources = Counter(estimate.source for estimate in known)
    made_of = ", ".join(f"{sources[kind]} from {kind}" for kind in _KINDS if sources[kind])
    rest = f"; {unknown} unknown" if unknown else ""
    beside = f", about {duration(total / jobs)} with {jobs} side by side" if jobs > 1 else ""
    return (
        f"Estimated cost: {duration(total)} of computing{beside}. It sums, over {len(known)} open jobs, the mean "
        f"seconds of the nearest finished runs of the method ({made_of}{rest}); start-up is not in it."
    )


def duration(seconds: float) -> str:
    """Return a time in words: ``8 s``, ``12 min``, ``3.5 h``."""
    if seconds < 100:
        return f"{seconds:.3g} s" if seconds < 1 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
