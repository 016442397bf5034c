"""From jobs to results: each run prepared and finished as ever, the training in between done together."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from mmadapt.errors import UserError
from mmadapt.experiment import Prepared, Shots, Trained, finish, prepare
from mmadapt.launch.locks import BusyError, run_lock
from mmadapt.loggers import Loggers, open_loggers
from mmadapt.runner import Job, Outcome, complete, execute, noted, stored
from mmadapt.stack.groups import group_key
from mmadapt.stack.lane import Run, obstacle
from mmadapt.stack.train import train
from mmadapt.trainer import build_trainer

log = logging.getLogger(__name__)


def run_stack(jobs: Sequence[Job]) -> list[Outcome]:
    """Run a group of jobs, their training batched; what ``launch.stack=true`` stands for.

    Each job gets the files it gets alone: skipped if finished, refused if its folder holds another configuration,
    ``failed.json`` if it fails, and then it fails alone. ``cost.stacked`` of a result says how many runs
    its training was batched with, and ``cost.train_seconds`` is its share of their time, by epochs trained.
    Jobs that cannot be stacked run one after the other; those that another process computes are ``busy``.

    Args:
        jobs: A group as `mmadapt.stack.groups.groups` returns them; any other mixture is run as well.

    Returns:
        What became of each job, in their order.
    """
    with ExitStack() as locks:
        return _run_stack(jobs, locks)


def _run_stack(jobs: Sequence[Job], locks: ExitStack) -> list[Outcome]:
    outcomes: dict[int, Outcome] = {}
    waiting: dict[int, tuple[Prepared, Loggers]] = {}
    alone: list[int] = []
    shots: Shots = {}
    folders: set[object] = set()
    for i, job in enumerate(jobs):
        try:
            if job.run_dir in folders or len(jobs) == 1 or not group_key(job.config):
                alone.append(i)  # two jobs for one folder: the second is refused, or replaces the first
                continue
            folders.add(job.run_dir)
            start = time.perf_counter()
            lock = locks.enter_context(ExitStack())
            lock.enter_context(run_lock(job.run_dir, wait=False))
            finished = stored(job.run_dir, job.config)
            if finished is not None:
                lock.close()
                outcomes[i] = Outcome("skipped", job.run_dir, time.perf_counter() - start, finished)
                continue
            prepared, loggers = _prepare(job, shots)
            if prepared.epochs and obstacle(prepared.method):
                lock.close()
                alone.append(i)
            else:
                waiting[i] = prepared, loggers
        except BusyError:
            outcomes[i] = Outcome("busy", job.run_dir, 0.0)
        except Exception as error:
            outcomes[i] = _failed(job, error)
    runs = {i: Run(each.method, each.resident, each.epochs) for i, (each, _) in waiting.items()}  # type: ignore[arg-type]
    failure = _train(list(runs.values()))
    for i, run in runs.items():
        outcomes[i] = _finish(jobs[i], *waiting.pop(i), run, failure)
    for i in alone:
        outcomes[i] = _run_alone(jobs[i])
    return [outcomes[i] for i in range(len(jobs))]


def _prepare(job: Job, shots: Shots) -> tuple[Prepared, Loggers]:
    with noted(job):
        loggers = open_loggers(job.config["logger"], job.key, job.config, job.run_dir)
        try:
            trainer = build_trainer(job.config, job.run_dir, loggers.all)
            return prepare(job.config, job.key, trainer, shots), loggers
        except BaseException:
            with loggers:  # closes them as failed
                raise


def _train(runs: Sequence[Run]) -> Exception | None:
    """Train; return what stopped all of them, as a full memory does."""
    try:
        train(runs)
    except Exception as error:
        return error
    return None


def _finish(job: Job, prepared: Prepared, loggers: Loggers, run: Run, failure: Exception | None) -> Outcome:
    try:
        with noted(job, resumed=True), loggers:
            _log(prepared, run)
            if error := run.error or (None if run.stacked else failure if run.epochs else None):
                raise error
            prepared.clock.lap("train_seconds", run.seconds)
            trained = Trained(run.trained) if run.best is None else Trained(*run.best)
            result = finish(prepared, trained)
            if run.epochs:
                log.info("Trained in a stack of %d runs.", run.stacked)
                result = replace(result, cost={**result.cost, "stacked": run.stacked})
            result = complete(job, result)
            loggers.finish(result)
    except Exception as error:
        return _failed(job, error)
    return Outcome("done", job.run_dir, sum(prepared.clock.seconds.values()), result)


def _run_alone(job: Job) -> Outcome:
    try:
        return execute(job.cfg, job.choices, job.run_dir, job.typed, wait=False)
    except BusyError:
        return Outcome("busy", job.run_dir, 0.0)
    except Exception as error:
        return _failed(job, error)


def _failed(job: Job, error: Exception) -> Outcome:
    if not isinstance(error, UserError):
        log.error("%s failed.", job.run_dir, exc_info=error)
    return Outcome("failed", job.run_dir, 0.0, error=str(error))


def _log(prepared: Prepared, run: Run) -> None:
    """Log every epoch, and let Lightning count what was trained, so that test scores are logged after it."""
    trainer = prepared.trainer
    for epoch, row in enumerate(run.history):
        for logger in trainer.loggers:
            logger.log_metrics({"epoch": epoch, **row}, step=epoch)
    trainer.fit_loop.epoch_progress.current.completed = run.trained
    trainer.fit_loop.epoch_loop._batches_that_stepped = run.trained
