"""A job that Hydra hands to the application itself: a single run, or a job of any other launcher."""

from __future__ import annotations

import os
import time
import traceback
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from mmadapt.config.hydra_versions import list_choices, share_store
from mmadapt.config.schema import register_resolvers
from mmadapt.errors import UserError
from mmadapt.progress import Guard
from mmadapt.runs.job import Outcome, execute, remove_empty
from mmadapt.sweeps.child import Processes, started_by_a_sweep
from mmadapt.sweeps.dry_run import print_plan
from mmadapt.sweeps.options import read_options
from mmadapt.sweeps.plan import Cell, look_at
from mmadapt.sweeps.report import check_no_debug, outcomes, print_line
from mmadapt.sweeps.search import NoObjectiveError, check_objective, check_plannable, is_search, objective
from mmadapt.sweeps.sweeper import register_plugins

register_resolvers()
register_plugins()
share_store()
list_choices()
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads cost a shared machine a factor of five

_POLL_SECONDS = 0.5


def job(cfg: DictConfig) -> float | None:
    """Run one composed configuration; the accuracy on val, never on test, is what a sweeper may optimise.

    A single run comes here, and the jobs of a sweep that another launcher than `SweepLauncher` runs.
    """
    hydra_config = HydraConfig.get()
    run_dir = Path(hydra_config.runtime.output_dir)
    sweeping = hydra_config.mode == RunMode.MULTIRUN
    counter = str(hydra_config.job.num + 1) if sweeping else "1"
    overrides = list(hydra_config.overrides.task)
    try:
        if read_options(cfg).dry_run:
            remove_empty(run_dir)
            check_plannable(hydra_config)
            dry_run(cfg, hydra_config, run_dir)
            return None
        if sweeping:
            check_no_debug(cfg.trainer, hydra_config.runtime.choices["method"], hydra_config)
        if sweeping and (outcome := in_child(cfg, hydra_config, run_dir)) is not None:
            if outcome.status == "failed":
                raise UserError(outcome.error)
        else:
            patient = not started_by_a_sweep()
            outcome = execute(cfg, hydra_config.runtime.choices, run_dir, overrides, wait=patient)
    except Exception as error:
        remove_empty(run_dir)
        if sweeping and not isinstance(error, NoObjectiveError):
            outcomes.append(Outcome("failed", run_dir, 0.0, error=str(error)))
            print_line(outcomes[-1], counter)
            if not isinstance(error, UserError):
                traceback.print_exc()
        raise
    if outcome.status == "joined":
        return None
    outcomes.append(outcome)
    if sweeping:
        Guard("The line of a job")(print_line, outcome, counter, searching=is_search(hydra_config))
        check_objective(objective(outcome), hydra_config.runtime.choices["method"], hydra_config)
    return objective(outcome)


def dry_run(cfg: DictConfig, hydra: Any, run_dir: Path) -> None:
    """Print what the job would do."""
    print_plan([_cell(cfg, hydra, run_dir)], Path(cfg.paths.results), 1)


def in_child(cfg: DictConfig, hydra: Any, run_dir: Path) -> Outcome | None:
    """Run a job of a sweep in a fresh process if it needs one; None if it may run in this one.

    Raises:
        UserError: If the job asks for devices that are not there.
    """
    cell = _cell(cfg, hydra, run_dir)
    if not cell.own_process or cell.state in ("done", "refused"):
        return None
    processes = Processes(read_options(cfg), hydra)
    while True:
        child = processes.start(
            cell.overrides, run_dir, cell.config["trainer"], own=True, debug=bool(cell.debug)
        )
        if child is not None:
            outcome = child.wait()
            processes.take_back(child)
            if outcome.status != "busy":
                return outcome
        time.sleep(_POLL_SECONDS)


def _cell(cfg: DictConfig, hydra: Any, run_dir: Path) -> Cell:
    return look_at(cfg, hydra.runtime.choices["method"], run_dir, tuple(hydra.overrides.task))
