"""Around one run: skip it if it is finished, refuse a clash, note a failure, write its files."""

from __future__ import annotations

import logging
import shlex
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from mmadapt.config import differences, fingerprint, resolve
from mmadapt.errors import UserError
from mmadapt.results import FAILURE_FILE, Result, RunKey, write_json

CONFIG_FILE = "config.yaml"
LOG_FILE = "run.log"
_GROUPS = ("clip", "data", "method", "protocol", "trainer", "logger")


@dataclass(frozen=True)
class Outcome:
    """What became of one job."""

    status: Literal["done", "skipped", "failed"]
    run_dir: Path
    seconds: float
    result: Result | None = None
    error: str = ""


def execute(cfg: DictConfig, choices: Mapping[str, str], run_dir: Path, overrides: Sequence[str]) -> Outcome:
    """Run a job unless its result is already there.

    Args:
        cfg: The composed configuration.
        choices: The chosen option of each configuration group.
        run_dir: Folder of the run.
        overrides: The command-line overrides, noted with the result.

    Raises:
        UserError: If the folder holds a result of another configuration, or the input is wrong.
    """
    start = time.perf_counter()
    config = resolve(cfg)
    finished = Result.read(run_dir)
    if finished is not None and finished.fingerprint == fingerprint(config):
        return Outcome("skipped", run_dir, time.perf_counter() - start, finished)
    if finished is not None and not config["overwrite"]:
        changed = differences(finished.config, config)
        listed = "; ".join(changed[:8]) + ("; …" if len(changed) > 8 else "")
        raise UserError(
            f"{run_dir} holds a result of another configuration ({listed}). "
            "Use tag=<new> to keep both or overwrite=true to replace it."
        )
    key = RunKey(
        config["tag"],
        config["protocol"]["name"],
        config["clip"]["name"],
        config["data"]["name"],
        choices["method"],
        config["shots"],
        config["seed"],
    )
    with _noted(run_dir, config, overrides):
        from mmadapt.experiment import run
        from mmadapt.loggers import open_loggers

        with open_loggers(config["logger"], key, config, run_dir) as loggers:
            result = run(config, key, run_dir, loggers.all)
            typed = {
                "command": shlex.join(["python", "-m", "mmadapt", *overrides]),
                "overrides": list(overrides),
                "choices": {group: choices[group] for group in _GROUPS if group in choices},  # no list
            }
            result = replace(result, provenance={**result.provenance, **typed})
            (run_dir / CONFIG_FILE).write_text(OmegaConf.to_yaml(OmegaConf.create(config)), encoding="utf-8")
            result.write(run_dir)
            loggers.finish(result)
    return Outcome("done", run_dir, time.perf_counter() - start, result)


@contextmanager
def _noted(run_dir: Path, config: dict[str, Any], overrides: Sequence[str]) -> Iterator[None]:
    """Write the log of the run, and ``failed.json`` if it does not get through."""
    run_dir.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(run_dir / LOG_FILE, mode="w", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    package = logging.getLogger("mmadapt")
    package.setLevel(logging.INFO)
    package.addHandler(handler)
    try:
        yield
    except BaseException as error:
        package.info("The run failed: %s", error, exc_info=not isinstance(error, UserError))
        failure = {
            "error": f"{type(error).__name__}: {error}",
            "overrides": list(overrides),
            "traceback": traceback.format_exc(),
            "config": config,
        }
        write_json(run_dir / FAILURE_FILE, failure)
        raise
    finally:
        package.removeHandler(handler)
        handler.close()
