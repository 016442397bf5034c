"""Around one run: skip it if it is finished, refuse a clash, note a failure, write its files."""

from __future__ import annotations

import json
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
from mmadapt.ranks import is_main_process
from mmadapt.results import DETAILS_FILE, FAILURE_FILE, PREDICTIONS_FILE, Result, RunKey, write_json

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
    key = _key(config, choices)
    if not is_main_process():  # one of several processes of a run: the main one decides and writes
        from mmadapt.experiment import run

        return Outcome("done", run_dir, time.perf_counter() - start, run(config, key, run_dir))
    finished = Result.read(run_dir)
    if finished is not None and finished.fingerprint == fingerprint(config) and _has_files(config, run_dir):
        return Outcome("skipped", run_dir, time.perf_counter() - start, finished)
    if finished is not None and finished.fingerprint != fingerprint(config) and not config["overwrite"]:
        changed = differences(finished.config, config)
        listed = "; ".join(changed[:8]) + ("; …" if len(changed) > 8 else "")
        raise UserError(
            f"{run_dir} holds a result of another configuration ({listed}). "
            "Use tag=<new> to keep both or overwrite=true to replace it."
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


def _key(config: Mapping[str, Any], choices: Mapping[str, str]) -> RunKey:
    return RunKey(
        config["tag"],
        config["protocol"]["name"],
        config["clip"]["name"],
        config["data"]["name"],
        choices["method"],
        config["shots"],
        config["seed"],
    )


def _has_files(config: Mapping[str, Any], run_dir: Path) -> bool:
    """Return whether a finished run left the files that are asked for now; else it is run again."""
    if config["save_predictions"] and not (run_dir / PREDICTIONS_FILE).is_file():
        return False
    if not config["save_confusion"]:
        return True
    try:
        sets = json.loads((run_dir / DETAILS_FILE).read_text(encoding="utf-8"))["sets"]
    except (OSError, ValueError, KeyError):
        return False
    return all("confusion" in details for details in sets.values())


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
