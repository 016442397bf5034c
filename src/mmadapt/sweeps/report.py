"""What a sweep says while it goes on: a line for each finished job, a live bar on a terminal, the time left."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich.progress import Progress, TaskID

from mmadapt.config.trainer_options import debug_note
from mmadapt.progress import Guard, ProgressBar, RaisingConsole, live_display, say, stop_display
from mmadapt.runs.job import Outcome
from mmadapt.sweeps.dry_run import duration
from mmadapt.sweeps.search import NoObjectiveError, is_search, objective

outcomes: list[Outcome] = []
"""What became of the jobs of this command so far; the results of a sweep's jobs are dropped to save memory."""


def check_no_debug(trainer: Mapping[str, Any], method: str, hydra: Any) -> None:
    """Refuse a debug run in the hands of a sweeper that optimises: it has no result to choose by.

    Args:
        trainer: That part of the configuration.
        method: The method.
        hydra: The ``hydra`` node of the configuration.

    Raises:
        NoObjectiveError: Saying what to leave out.
    """
    note = debug_note(trainer)
    if note and is_search(hydra):
        raise NoObjectiveError(
            f"{method} is {note}: a search has nothing to choose by. Leave it out, or run a grid: no sweep=search."
        )


def print_line(outcome: Outcome, counter: str, note: str = "", *, searching: bool = False) -> None:
    """Print what became of a job: its folder, its accuracy and time, or its error.

    Args:
        outcome: The job that ended.
        counter: How many have ended, such as ``12/75``.
        note: What else to say, such as the time left.
        searching: Show the accuracy on val: who watches a search must not choose by test.
    """
    shown = "/".join(outcome.run_dir.parts[-6:])
    if outcome.status == "failed":
        say(f"[{counter}] {shown}: failed. {outcome.error}{note}", "stderr")
        return
    name, value = outcome.result.headline() if outcome.result else ("top-1", float("nan"))
    if searching and (on_val := objective(outcome)) is not None:
        name, value = "val top-1", on_val
    took = "already done" if outcome.status == "skipped" else f"{outcome.seconds:.1f} s"
    if outcome.status == "debug" and outcome.result:
        took += f"; {debug_note(outcome.result.config['trainer'])}"
    say(f"[{counter}] {shown}: {name} {100 * value:.2f} % ({took}){note}")


class SweepReport:
    """Follows a sweep from its first to its last job."""

    def __init__(self, total: int, ended: int = 0, *, jobs: int = 1, searching: bool = False) -> None:
        """Start a report.

        Args:
            total: Number of jobs.
            ended: How many of them a batch before has seen.
            jobs: How many run side by side.
            searching: See `print_line`.
        """
        self.total, self.ended, self.failed, self.searching = total, ended, 0, searching
        self._jobs, self._computed, self._seconds = jobs, 0, 0.0
        self._running: Sequence[float] = ()
        self._drawn = time.monotonic()
        console = RaisingConsole(stderr=True)
        self._live: Progress | None = live_display(console) if console.is_interactive and total > 1 else None
        self._task, self._lines = TaskID(0), Guard("The line of a job")

    def __enter__(self) -> SweepReport:
        if self._live is not None:
            ProgressBar.shared = self._live
            self._task = self._live.add_task("sweep", total=self.total, completed=self.ended, note=" ")
            ProgressBar.guard(self._live.start)
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            ProgressBar.guard(stop_display)

    def follow(self, running: Sequence[float]) -> None:
        """Show once a second that jobs go on in other processes, given how many seconds each has run."""
        self._running = running
        if self._live is not None and time.monotonic() - self._drawn >= 1:
            self._draw()

    def add(self, outcome: Outcome) -> None:
        """Count a job that has ended and print its line."""
        self.ended += 1
        self.failed += outcome.status == "failed"
        if outcome.status == "done":
            self._computed += 1
            self._seconds += outcome.seconds
        self._draw()
        # On a terminal the bar holds the time left.
        note = self._left() if self._live is None or ProgressBar.guard.broken else ""
        self._lines(print_line, outcome, f"{self.ended}/{self.total}", note, searching=self.searching)
        outcomes.append(outcome if self.total == 1 else replace(outcome, result=None))

    def leave(self, outcome: Outcome) -> None:
        """Note a job that was not started."""
        outcomes.append(outcome)

    def _draw(self) -> None:
        if self._live is not None:
            running = (
                f"{len(self._running)} running for {duration(max(self._running))}, " if self._running else ""
            )
            note = f"{self.failed} failed, {running}{self.total - self.ended} left{self._left()}"
            ProgressBar.guard(self._live.update, self._task, completed=self.ended, note=note, refresh=True)
            self._drawn = time.monotonic()

    def _left(self) -> str:
        """Return the time left if the open jobs take as long as those that are done; what runs is on its way."""
        left = self.total - self.ended
        if not left or not self._computed:
            return ""
        each = self._seconds / self._computed
        seconds = each * left - sum(min(passed, each) for passed in self._running)
        return f", about {duration(seconds / min(self._jobs, left))} left"
