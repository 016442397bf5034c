"""A job that Hydra hands to the application itself: a single run, or a job of any other launcher."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mmadapt.runs.job import Outcome
from mmadapt.sweeps.child import Child, command
from mmadapt.sweeps.devices import DevicePool
from mmadapt.sweeps.dry_run import print_plan
from mmadapt.sweeps.options import read_options
from mmadapt.sweeps.plan import Cell, look_at

_POLL_SECONDS = 0.5


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
    pool = DevicePool(read_options(cfg))
    while True:
        lease = pool.take(cell.config["trainer"])
        if lease is not None:
            line = command(cell.overrides, hydra, run_dir)
            outcome = Child(line, run_dir, lease, debug=bool(cell.debug)).wait()
            if outcome.status != "busy":
                return outcome
        time.sleep(_POLL_SECONDS)


def _cell(cfg: DictConfig, hydra: Any, run_dir: Path) -> Cell:
    return look_at(cfg, hydra.runtime.choices["method"], run_dir, tuple(hydra.overrides.task))
