"""Around one run: skip it if it is finished, refuse a clash, note a failure, write its files."""

from __future__ import annotations

import json
import logging
import shlex
import sys
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
from mmadapt.launch.devices import secondary_process
from mmadapt.launch.locks import run_lock
from mmadapt.results import DETAILS_FILE, FAILURE_FILE, PREDICTIONS_FILE, Result, RunKey, write_json

CONFIG_FILE = "config.yaml"
LOG_FILE = "run.log"
_GROUPS = ("clip", "data", "method", "protocol", "trainer", "logger")


@dataclass(frozen=True)
class Outcome:
    """What became of one job.

    ``busy`` means that another process is computing it, ``joined`` that this process helped the main one of a
    run on several devices.
    """

    status: Literal["done", "skipped", "failed", "busy", "not started", "joined"]
    run_dir: Path
    seconds: float
    result: Result | None = None
    error: str = ""


def execute(
    cfg: DictConfig, choices: Mapping[str, str], run_dir: Path, overrides: Sequence[str], *, wait: bool = True
) -> Outcome:
    """Run a job unless its result is already there.

    The folder is locked from the check to the result, so that two sweeps never compute one run twice.

    Args:
        cfg: The composed configuration.
        choices: The chosen option of each configuration group.
        run_dir: Folder of the run.
        overrides: The command-line overrides, noted with the result.
        wait: Wait while another process computes this run.

    Raises:
        UserError: If the folder holds a result of another configuration, or the input is wrong.
        BusyError: If another process computes this run and ``wait`` is False.
    """
    start = time.perf_counter()
    config = resolve(cfg)
    config.pop("launch", None)  # how a run was started is no part of it
    overrides = [line for line in overrides if not line.lstrip("+").startswith("launch.")]
    if secondary_process(
        config["trainer"]
    ):  # one of several of a run: the main one decides, locks and writes
        from mmadapt.experiment import run

        run(config, _key(config, choices), run_dir)
        return Outcome("joined", run_dir, time.perf_counter() - start)
    finished = stored(run_dir, config)
    if finished is None:
        with run_lock(run_dir, wait=wait):
            finished = stored(run_dir, config)
            if finished is None:
                result = _compute(config, choices, run_dir, overrides)
                return Outcome("done", run_dir, time.perf_counter() - start, result)
    return Outcome("skipped", run_dir, time.perf_counter() - start, finished)


def stored(run_dir: Path, config: Mapping[str, Any]) -> Result | None:
    """Return the result that makes a run unnecessary, or None if it has to be computed.

    Raises:
        UserError: If the folder holds a result of another configuration and ``overwrite`` is false.
    """
    finished = Result.read(run_dir)
    if finished is None or finished.fingerprint == fingerprint(config):
        return finished if finished is not None and _has_files(config, run_dir) else None
    if config["overwrite"]:
        return None
    changed = differences(finished.config, config)
    listed = "; ".join(changed[:8]) + ("; …" if len(changed) > 8 else "")
    raise UserError(
        f"{run_dir} holds a result of another configuration ({listed}). "
        "Use tag=<new> to keep both or overwrite=true to replace it."
    )


def remove_empty(folder: Path) -> None:
    """Take back the folders that Hydra made for a job that was refused."""
    for path in (folder, *folder.parents[:6]):
        try:
            path.rmdir()
        except OSError:
            return


def _compute(
    config: dict[str, Any], choices: Mapping[str, str], run_dir: Path, overrides: Sequence[str]
) -> Result:
    for left_over in run_dir.glob(".*.tmp"):  # of a process that was killed while it wrote
        left_over.unlink(missing_ok=True)
    key = _key(config, choices)
    with _noted(run_dir, config, overrides):
        from mmadapt.experiment import run
        from mmadapt.loggers import open_loggers

        with open_loggers(config["logger"], key, config, run_dir) as loggers:
            try:
                result = run(config, key, run_dir, loggers.all)
            except SystemExit as leaving:
                if isinstance(leaving.__context__, KeyboardInterrupt):  # Lightning turns Ctrl-C into exit(1)
                    raise KeyboardInterrupt from leaving
                raise
            result = publish(result, config, choices, run_dir, overrides)
            loggers.finish(result)
    return result


def publish(
    result: Result,
    config: Mapping[str, Any],
    choices: Mapping[str, str],
    run_dir: Path,
    overrides: Sequence[str],
) -> Result:
    """Write the configuration, and last of all the result, which makes the run a finished one."""
    typed = {
        "command": shlex.join(["python", "-m", "mmadapt", *overrides]),
        "overrides": list(overrides),
        "choices": {group: choices[group] for group in _GROUPS if group in choices},  # no list
    }
    result = replace(result, provenance={**result.provenance, **typed})
    (run_dir / CONFIG_FILE).write_text(OmegaConf.to_yaml(OmegaConf.create(dict(config))), encoding="utf-8")
    result.write(run_dir)
    return result


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
        shown = None if isinstance(error, UserError | KeyboardInterrupt) else sys.exc_info()
        record = package.makeRecord(
            package.name, logging.INFO, __file__, 0, "The run failed: %s", (error,), shown
        )
        handler.handle(record)  # to the file alone: the console gets a line of its own
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
