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
from mmadapt.ranks import is_main_process
from mmadapt.runner import Outcome, execute

register_resolvers()
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads cost a shared machine a factor of five
_outcomes: list[Outcome] = []


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")
def job(cfg: DictConfig) -> float | None:
    """Run one composed configuration; the accuracy on val, never on test, is what a sweeper may optimise."""
    hydra_config = HydraConfig.get()
    run_dir = Path(hydra_config.runtime.output_dir)
    sweeping = hydra_config.mode == RunMode.MULTIRUN
    try:
        outcome = execute(cfg, hydra_config.runtime.choices, run_dir, hydra_config.overrides.task)
    except Exception as error:
        _remove_empty(run_dir)
        if sweeping:
            _outcomes.append(Outcome("failed", run_dir, 0.0, error=str(error)))
            _print_line(_outcomes[-1], len(_outcomes))
            if not isinstance(error, UserError):
                traceback.print_exc()
        raise
    _outcomes.append(outcome)
    if sweeping:
        _print_line(outcome, len(_outcomes))
    return outcome.result.selection.get("val_top1") if outcome.result else None


def main() -> None:
    """Run the command; mistakes of the user end as one message and exit code 1."""
    # The source of a protocol is its data set; Hydra can choose an option only by the name of its group.
    sys.argv[1:] = [re.sub(r"^protocol\.source=", "data=", argument) for argument in sys.argv[1:]]
    asked_for_trace = "HYDRA_FULL_ERROR" in os.environ
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let exceptions through to us instead of Hydra's own printout
    try:
        job()
    except (UserError, HydraException, OmegaConfBaseException) as error:
        if asked_for_trace:
            raise
        _finish()
        if not _outcomes:
            from mmadapt.explain import explain

            print(f"mmadapt: {explain(error, sys.argv[1:])}", file=sys.stderr)
        sys.exit(1)
    except Exception:
        if not _outcomes:
            raise
        _finish()
        sys.exit(1)
    _finish()


def _remove_empty(folder: Path) -> None:
    """Take back the folders that Hydra made for a job that was refused."""
    for path in (folder, *folder.parents[:6]):
        try:
            path.rmdir()
        except OSError:
            return


def _print_line(outcome: Outcome, number: int) -> None:
    shown = "/".join(outcome.run_dir.parts[-6:])
    if outcome.status == "failed":
        print(f"[{number}] {shown}: failed. {outcome.error}", file=sys.stderr, flush=True)
        return
    name, value = outcome.result.headline() if outcome.result else ("top-1", float("nan"))
    took = "already done" if outcome.status == "skipped" else f"{outcome.seconds:.1f} s"
    print(f"[{number}] {shown}: {name} {100 * value:.2f} % ({took})", flush=True)


def _finish() -> None:
    if _outcomes and is_main_process():
        from mmadapt.summary import print_summary

        print_summary(_outcomes)
