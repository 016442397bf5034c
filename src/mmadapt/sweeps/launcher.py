"""The launcher of sweeps as a Hydra plugin, chosen by ``conf/hydra/launcher/mmadapt.yaml``."""

from __future__ import annotations

import atexit
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, run_job
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from mmadapt.config.messages import explain_value
from mmadapt.errors import UserError
from mmadapt.progress import track
from mmadapt.runs.job import Outcome, clear_leftovers, execute, remove_empty
from mmadapt.runs.locks import BusyError
from mmadapt.sweeps import plan
from mmadapt.sweeps.child import Processes
from mmadapt.sweeps.composer import Composer
from mmadapt.sweeps.dry_run import print_plan
from mmadapt.sweeps.options import LaunchOptions, read_options
from mmadapt.sweeps.report import SweepReport, check_no_debug
from mmadapt.sweeps.schedule import Job, Schedule
from mmadapt.sweeps.search import check_objective, check_plannable, is_search, objective


class SweepLauncher(Launcher):
    """Runs the jobs of a sweep one after another, or several at a time in other processes.

    Jobs that are done, and jobs that another sweep computes, cost no more than their composition.
    """

    total: int | None = None
    """Number of jobs of all batches; the sweeper of mmadapt sets it."""
    _processes: Processes | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra hands to every launcher; the task is always `mmadapt.runs.job.execute`."""
        self._context, self._config = hydra_context, config
        self._compose = Composer(hydra_context, config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Run the jobs; those that failed are noted in what is returned, and not raised.

        Raises:
            UserError: If a job cannot be composed; then none has been started.
        """
        options = read_options(self._config)
        if options.dry_run:
            check_plannable(self._config.hydra)
        cells = plan_all(self._compose, job_overrides, initial_job_idx)
        if options.dry_run:
            print_plan(cells, Path(self._config.paths.results), options.jobs)
            return [_job_return(cell, Outcome("not started", cell.run_dir, 0.0)) for cell in cells]
        for cell in cells:
            check_no_debug(cell.config.get("trainer", {}), cell.place[2], self._config.hydra)
        returns: dict[int, JobReturn] = {}

        def ended(number: int, outcome: Outcome) -> None:
            returns[number] = _job_return(cells[number - initial_job_idx], outcome)

        children = options.jobs > 1 or any(cell.own_process for cell in cells)
        total = self.total or initial_job_idx + len(cells)
        searching = is_search(self._config.hydra)
        with (
            SweepReport(total, initial_job_idx, searching=searching) as report,
            _stopped_by_signals(children),
        ):
            jobs = []
            for number, cell in enumerate(cells, initial_job_idx):
                known = _known(cell)
                if known is None:
                    jobs.append(Job(number, cell))
                else:
                    if known.status == "skipped":
                        clear_leftovers(cell.run_dir)
                    report.add(known)
                    ended(number, known)
            report.begin()
            Schedule(options, report, self._here, self._processes_of(options), ended).run(jobs)
        for number, returned in returns.items():
            if returned.status == JobStatus.COMPLETED:
                method = cells[number - initial_job_idx].place[2]
                check_objective(returned.return_value, method, self._config.hydra)
        return [returns[number] for number in sorted(returns)]

    def _here(self, job: Job) -> Outcome:
        """Run a job in this process, as Hydra's basic launcher does."""
        outcomes: list[Outcome] = []

        def task(cfg: DictConfig) -> float | None:
            hydra = HydraConfig.get()
            overrides = list(hydra.overrides.task)
            try:
                outcomes.append(execute(cfg, hydra.runtime.choices, job.cell.run_dir, overrides, wait=False))
            except BusyError:
                outcomes.append(Outcome("busy", job.cell.run_dir, 0.0))
            except Exception as error:
                outcomes.append(Outcome("failed", job.cell.run_dir, 0.0, error=explain_value(error)))
                remove_empty(job.cell.run_dir)
                if not isinstance(error, UserError):
                    traceback.print_exc()
                raise
            return objective(outcomes[-1])

        run_job(
            hydra_context=self._context,
            task_function=task,
            config=self._compose(job.cell.overrides, job.number),
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        return outcomes[-1]

    def _processes_of(self, options: LaunchOptions) -> Processes:
        """Return the processes of all batches: a search hands over one batch after another."""
        if self._processes is None:
            self._processes = Processes(options, self._config.hydra)
            atexit.register(self._processes.close)
        return self._processes


def plan_all(compose: Composer, job_overrides: Sequence[Sequence[str]], first: int) -> list[plan.Cell]:
    """Compose every job and find out what it would do.

    Raises:
        UserError: If a job's folder cannot be named.
    """
    numbered = enumerate(track(job_overrides, "planning", len(job_overrides)), first)
    return [plan.look(compose(line, number), line) for number, line in numbered]


def _known(cell: plan.Cell) -> Outcome | None:
    if cell.state == "refused":
        return Outcome("failed", cell.run_dir, 0.0, error=cell.reason)
    return Outcome("skipped", cell.run_dir, 0.0, cell.result) if cell.result is not None else None


def _job_return(cell: plan.Cell, outcome: Outcome) -> JobReturn:
    status = JobStatus.FAILED if outcome.status == "failed" else JobStatus.COMPLETED
    value = UserError(outcome.error) if outcome.status == "failed" else objective(outcome)
    returned = JobReturn(overrides=list(cell.overrides), working_dir=str(Path.cwd()), status=status)
    returned.return_value = value
    return returned


@contextmanager
def _stopped_by_signals(wanted: bool) -> Iterator[None]:
    """Let a terminated or hung-up sweep end its children, which no terminal would reach.

    Lightning handles these signals itself while it trains in this process, so only sweeps with children ask.
    """
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
