"""Brings every job of a sweep to an end: here or in child processes, around jobs that others compute."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mmadapt.errors import UserError
from mmadapt.progress import say
from mmadapt.results import FAILURE_FILE
from mmadapt.runs.job import Outcome, stored
from mmadapt.runs.locks import LOCK_FILE, holder
from mmadapt.sweeps.child import Child, Processes
from mmadapt.sweeps.options import LaunchOptions
from mmadapt.sweeps.plan import Cell, failure
from mmadapt.sweeps.report import SweepReport

_POLL_SECONDS = 0.1
_ELSEWHERE_SECONDS = 1.0


@dataclass
class Job:
    """A cell that is not finished yet, with its number in the sweep."""

    number: int
    cell: Cell
    waited_since: float | None = field(default=None)
    """When another process was first seen computing it."""


class Schedule:
    """Runs jobs until none is open.

    Args:
        options: How to start them.
        report: Is told of every job that has ended.
        here: Runs a job in this process.
        processes: Starts a job in another process.
        ended: Is told the number and outcome of every job that has ended.
    """

    def __init__(
        self,
        options: LaunchOptions,
        report: SweepReport,
        here: Callable[[Job], Outcome],
        processes: Processes,
        ended: Callable[[int, Outcome], None],
    ) -> None:
        self._options, self._report = options, report
        self._here, self._processes, self._ended = here, processes, ended
        self._open: deque[Job] = deque()
        self._elsewhere: list[Job] = []
        self._running: list[tuple[Job, Child]] = []
        self._told = False

    def run(self, jobs: Sequence[Job]) -> None:
        """Run all jobs; an exception such as Ctrl-C ends the children before it goes on."""
        self._open.extend(jobs)
        looked = time.monotonic()
        try:
            while self._open or self._elsewhere or self._running:
                if self._options.fail_fast and self._report.failed:
                    self._leave(wait=True)
                    return
                if self._collect() or self._start_next():
                    continue
                if self._elsewhere and time.monotonic() - looked > _ELSEWHERE_SECONDS:
                    self._revisit()
                    looked = time.monotonic()
                time.sleep(_POLL_SECONDS)
        except BaseException:
            self._leave(wait=False)
            raise

    def _start_next(self) -> bool:
        """Start, or bring to an end, the first open job for which there is room; False if there is none."""
        if len(self._running) >= self._options.jobs:
            return False
        for job in list(self._open):
            if (known := self._known(job)) is not None:
                self._open.remove(job)
                self._finish(job, known)
                return True
            if not job.cell.debug and holder(job.cell.run_dir / LOCK_FILE) is not None:
                self._put_off(job)
                return True
            if not (self._options.jobs > 1 or job.cell.own_process):
                if self._running:
                    return False
                self._open.remove(job)
                try:
                    outcome = self._here(job)
                except BaseException:
                    self._finish(job, Outcome("failed", job.cell.run_dir, 0.0, error="Interrupted."))
                    raise
                self._take_back(job, outcome)
                return True
            try:
                child = self._start(job)
            except UserError as error:
                self._open.remove(job)
                self._finish(job, Outcome("failed", job.cell.run_dir, 0.0, error=str(error)))
                return True
            if child is not None:
                self._open.remove(job)
                self._running.append((job, child))
                return True
        if self._open and not self._running:
            self._say_waiting()
        return False

    def _start(self, job: Job) -> Child | None:
        cell = job.cell
        return self._processes.start(
            cell.overrides, cell.run_dir, cell.config["trainer"], own=cell.own_process, debug=bool(cell.debug)
        )

    def _collect(self) -> bool:
        """Bring to an end the children that have ended; False if there is none."""
        for entry in self._running:
            outcome = entry[1].poll()
            if outcome is not None:
                self._running.remove(entry)
                self._processes.take_back(entry[1])
                self._take_back(entry[0], outcome)
                return True
        return False

    def _take_back(self, job: Job, outcome: Outcome) -> None:
        if outcome.status == "busy":  # another sweep was quicker
            self._open.appendleft(job)
            self._put_off(job)
        else:
            self._finish(job, outcome)

    def _put_off(self, job: Job) -> None:
        self._open.remove(job)
        job.waited_since = job.waited_since or time.time()
        self._elsewhere.append(job)

    def _revisit(self) -> None:
        """Reopen the jobs that nobody computes any more; `_known` ends those that have ended elsewhere."""
        free = [job for job in self._elsewhere if holder(job.cell.run_dir / LOCK_FILE) is None]
        self._elsewhere = [job for job in self._elsewhere if job not in free]
        self._open.extend(free)

    def _known(self, job: Job) -> Outcome | None:
        """Return the outcome of a job that another process brought to an end meanwhile."""
        if job.cell.debug:
            return None
        run_dir = job.cell.run_dir
        try:
            result = stored(run_dir, job.cell.config)
        except UserError as error:  # another sweep wrote a result of another configuration
            return Outcome("failed", run_dir, 0.0, error=str(error))
        if result is not None:
            return Outcome("skipped", run_dir, 0.0, result)
        if job.waited_since is None:
            return None
        note = run_dir / FAILURE_FILE
        if note.exists() and note.stat().st_mtime >= job.waited_since:
            said = failure(run_dir) or ""
            if not said.startswith(("KeyboardInterrupt", "SystemExit")):  # interrupted there: open here
                return Outcome("failed", run_dir, 0.0, error=f"{said} (in another sweep)")
        return None

    def _finish(self, job: Job, outcome: Outcome) -> None:
        self._report.add(outcome)
        self._ended(job.number, outcome)

    def _leave(self, *, wait: bool) -> None:
        """End the sweep early: let running children finish, or stop them, and note what was not started."""
        try:
            if not wait:
                for _, child in self._running:
                    child.interrupt()
            for job, child in self._running:
                self._finish(job, child.wait() if wait else child.stop())
                self._processes.take_back(child)
        except BaseException:  # a second Ctrl-C: no more patience
            for _, child in self._running:
                child.stop(patience=0)
            raise
        self._running = []
        for job in (*self._open, *self._elsewhere):
            outcome = Outcome("not started", job.cell.run_dir, 0.0)
            self._report.leave(outcome)
            self._ended(job.number, outcome)

    def _say_waiting(self) -> None:
        if not self._told:
            self._told = True
            held = "; ".join(f"{name} by {who}" for name, who in self._processes.devices.holders().items())
            say(f"Waiting for a free device (taken: {held}).")
