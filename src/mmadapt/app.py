"""The command ``python -m mmadapt``: Hydra composes, `mmadapt.runner` runs, a table is printed."""

from __future__ import annotations

import os
import re
import sys
import traceback
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from mmadapt.config import CONF_DIR, register_resolvers
from mmadapt.errors import UserError
from mmadapt.explain import check_choices, explain
from mmadapt.guard import Guard
from mmadapt.hydra_line import BASE, share_store
from mmadapt.launch import child
from mmadapt.launch.launcher import read_options
from mmadapt.launch.locks import BusyError
from mmadapt.launch.report import (
    NoObjectiveError,
    check_objective,
    check_plannable,
    is_search,
    objective,
    outcomes,
    print_line,
)
from mmadapt.launch.single import dry_run, in_child
from mmadapt.launch.sweeper import register_plugins
from mmadapt.runner import Outcome, execute, remove_empty

register_resolvers()
register_plugins()
share_store()
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads cost a shared machine a factor of five
_DRY_RUN = re.compile(r"\+{0,2}launch\.dry_run=(true|yes|on|1)", re.IGNORECASE)


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
        if sweeping and (outcome := in_child(cfg, hydra_config, run_dir)) is not None:
            if outcome.status == "failed":
                raise UserError(outcome.error)
        else:
            patient = not child.started_by_a_sweep()
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


def main() -> None:
    """Run the command; mistakes of the user end as one message and exit code 1."""
    # The source of a protocol is its data set; Hydra can choose an option only by the name of its group.
    sys.argv[1:] = [re.sub(r"^protocol\.source=", "data=", argument) for argument in sys.argv[1:]]
    asked_for_trace = "HYDRA_FULL_ERROR" in os.environ
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let exceptions through to us instead of Hydra's own printout
    for place, argument in enumerate(sys.argv):
        if _DRY_RUN.fullmatch(argument):  # as a sweep of one: a single run starts by making its folder
            sys.argv.insert(place, "hydra.mode=MULTIRUN")
            break
    try:
        check_choices(sys.argv[1:])
        hydra.main(**BASE, config_path=str(CONF_DIR), config_name="config")(job)()
    except KeyboardInterrupt:
        child.report("failed", error="Interrupted.", explained=True)
        _finish()
        print("mmadapt: interrupted.", file=sys.stderr)
        sys.exit(130)
    except BusyError:
        child.report("busy")
        sys.exit(1)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        message = explain(error, sys.argv[1:])
        child.report("failed", error=message, explained=True)
        if asked_for_trace:
            raise
        _finish()
        if not outcomes or isinstance(error, NoObjectiveError):
            print(f"mmadapt: {message}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        child.report("failed", error=f"{type(error).__name__}: {error}")
        if not outcomes:
            raise
        _finish()
        sys.exit(1)
    if outcomes:
        child.report(outcomes[-1].status)
    _finish()


def _finish() -> None:
    if outcomes:
        from mmadapt.summary import print_summary

        Guard("The summary")(print_summary, outcomes)
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:  # nobody reads it: what is left in it must not change the exit code
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
