"""Around one run: skip it if it is finished, refuse a clash, note a failure, write its files."""

from __future__ import annotations

import json
import logging
import shlex
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from mmadapt.config.identity import differences
from mmadapt.config.schema import resolve
from mmadapt.config.trainer_options import is_debug
from mmadapt.errors import UserError
from mmadapt.progress import Guard
from mmadapt.results import (
    CHECKPOINT_FILE,
    DETAILS_FILE,
    FAILURE_FILE,
    PREDICTIONS_FILE,
    Result,
    RunKey,
    write_json,
)
from mmadapt.runs.locks import LOCK_FILE, run_lock, try_lock
from mmadapt.runs.process_count import check_devices, secondary_process

log = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
LOG_FILE = "run.log"
_TEMPORARY = ".*.tmp"
_OF_METHOD = ("method", "experiment", "sweep", "overwrite")
_GROUPS = ("clip", "data", "method", "protocol", "trainer", "logger", "callbacks")


@dataclass(frozen=True)
class Outcome:
    """What became of one job.

    ``busy`` means that another process is computing it, ``joined`` that this process helped the main one of a
    run on several devices, ``debug`` that its result is here and nowhere else.
    """

    status: Literal["done", "skipped", "failed", "busy", "not started", "joined", "debug"]
    run_dir: Path
    seconds: float
    result: Result | None = None
    error: str = ""


def execute(
    cfg: DictConfig, choices: Mapping[str, str], run_dir: Path, overrides: Sequence[str], *, wait: bool = True
) -> Outcome:
    """Run a job unless its result is already there; a debug run is always run, and leaves the folder as it is.

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
    job = Job(cfg, choices, run_dir, overrides)
    config = job.config
    if secondary_process(config["trainer"]):  # one of several of a run: the main one decides, locks, writes
        from mmadapt.runs.experiment import run

        run(config, job.key, run_dir, coop_run=coop_run_of(job))
        return Outcome("joined", run_dir, time.perf_counter() - start)
    if is_debug(config["trainer"]):
        check_devices(config["trainer"])
        result = _run(job, coop_run=coop_run_of(job))
        remove_empty(run_dir)
        return Outcome("debug", run_dir, time.perf_counter() - start, result)
    finished = stored(run_dir, config)
    if finished is None:
        check_devices(config["trainer"])
        with run_lock(run_dir, wait=wait):
            finished = stored(run_dir, config)
            if finished is None:
                result = _compute(job)
                return Outcome("done", run_dir, time.perf_counter() - start, result)
    clear_leftovers(run_dir)
    return Outcome("skipped", run_dir, time.perf_counter() - start, finished)


@dataclass(frozen=True)
class Job:
    """One job of a command: the composed configuration and where its run goes.

    Attributes:
        cfg: The composed configuration.
        choices: The chosen option of each configuration group.
        run_dir: Folder of the run.
        typed: The command-line overrides.
    """

    cfg: DictConfig
    choices: Mapping[str, str]
    run_dir: Path
    typed: Sequence[str]

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration as plain containers, checked; how a run was started is no part of it."""
        config = resolve(self.cfg)
        config.pop("launch", None)
        return config

    @property
    def overrides(self) -> list[str]:
        """What was typed, as noted with the result."""
        return [line for line in self.typed if not line.lstrip("+").startswith("launch.")]

    @property
    def key(self) -> RunKey:
        """The identity of the run."""
        config = self.config
        protocol, clip, data = (config[group]["name"] for group in ("protocol", "clip", "data"))
        return RunKey(
            config["tag"], protocol, clip, data, self.choices["method"], config["shots"], config["seed"]
        )


def stored(run_dir: Path, config: Mapping[str, Any]) -> Result | None:
    """Return the result that makes a run unnecessary, or None if it has to be computed.

    Raises:
        UserError: If the folder holds a result of another configuration and ``overwrite`` is false.
    """
    finished = Result.read(run_dir)
    if finished is None:
        return None
    # Recomputed: what stood in the file was made by the list of its time.
    changed = differences(finished.config, config)
    if not changed:
        return finished if _has_files(config, run_dir) else None
    if config["overwrite"]:
        return None
    listed = "; ".join(changed[:8]) + ("; …" if len(changed) > 8 else "")
    raise UserError(
        f"{run_dir} holds a result of another configuration ({listed}). "
        "Use tag=<new> to keep both or overwrite=true to replace it."
    )


def clear_leftovers(run_dir: Path) -> None:
    """Remove what a process left in the folder of a finished run that was killed just before its end."""
    if any((run_dir / name).exists() for name in (LOCK_FILE, CHECKPOINT_FILE)) or any(
        run_dir.glob(_TEMPORARY)
    ):
        with suppress(OSError):  # another user's results
            lock = try_lock(run_dir / LOCK_FILE)
            if lock is not None:
                _clear(run_dir)
                (run_dir / CHECKPOINT_FILE).unlink(missing_ok=True)
                lock.release(remove=True)


def _clear(run_dir: Path) -> None:
    """Remove half-written files; the caller holds the lock, so nobody is writing them."""
    for path in run_dir.glob(_TEMPORARY):
        path.unlink(missing_ok=True)


def remove_empty(folder: Path) -> None:
    """Take back the folders that Hydra made for a job that was refused."""
    for path in (folder, *folder.parents[:6]):
        try:
            path.rmdir()
        except OSError:
            return


def _compute(job: Job) -> Result:
    with noted(job, resumed=(job.run_dir / CHECKPOINT_FILE).exists()):
        from mmadapt.loggers.guard import open_loggers

        coop_run = coop_run_of(job)
        with open_loggers(job.config["logger"], job.key, job.config, job.run_dir) as loggers:
            result = complete(job, _run(job, loggers.all, coop_run))
            loggers.finish(result)
    return result


def _run(job: Job, loggers: Sequence[Any] = (), coop_run: Path | None = None) -> Result:
    from mmadapt.runs.experiment import run

    try:
        return run(job.config, job.key, job.run_dir, loggers, coop_run)
    except SystemExit as leaving:
        if isinstance(leaving.__context__, KeyboardInterrupt):  # Lightning turns Ctrl-C into exit(1)
            raise KeyboardInterrupt from leaving
        raise


def coop_run_of(job: Job) -> Path | None:
    """Return the folder of the CoOp run that a method builds on without naming one: it lies beside its own.

    The main process makes that run with this command's overrides, less those of the method, if it is not there.
    """
    method = job.config["method"]
    if method.get("text_source") != "coop" or method.get("coop_run") is not None:
        return None
    folder = job.run_dir.parents[2] / "coop" / job.run_dir.parent.name / job.run_dir.name
    known = HydraConfig.initialized() and GlobalHydra.instance().is_initialized()
    if known and not (folder / CONFIG_FILE).is_file() and not secondary_process(job.config["trainer"]):
        typed = HydraConfig.get().overrides.task
        kept = [line for line in typed if line.lstrip("+~").split("=")[0].split(".")[0] not in _OF_METHOD]
        # One process: others of this run would repeat this run's command, not that one's.
        overrides = [*kept, "method=coop", "trainer.devices=1"]
        log.info("The CoOp run %s is missing and is made first.", folder)
        choices = compose("config", overrides=overrides, return_hydra_config=True).hydra.runtime.choices
        execute(compose("config", overrides=overrides), choices, folder, overrides)
    return folder


def complete(job: Job, result: Result) -> Result:
    """Add what was typed, write the configuration and, last of all, the result, which makes the run finished."""
    typed = {
        "command": shlex.join(["python", "-m", "mmadapt", *job.overrides]),
        "overrides": job.overrides,
        "choices": {group: job.choices[group] for group in _GROUPS if group in job.choices},  # no list
    }
    result = replace(result, provenance={**result.provenance, **typed})
    text = OmegaConf.to_yaml(OmegaConf.create(job.config))
    (job.run_dir / CONFIG_FILE).write_text(text, encoding="utf-8")
    result.write(job.run_dir)
    (job.run_dir / CHECKPOINT_FILE).unlink(missing_ok=True)
    return result


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
def noted(job: Job, *, resumed: bool = False) -> Iterator[None]:
    """Write the log of the run, after what is there if ``resumed``, and ``failed.json`` if it does not get through."""
    run_dir = job.run_dir
    run_dir.mkdir(parents=True, exist_ok=True)
    _clear(run_dir)
    handler = logging.FileHandler(run_dir / LOG_FILE, mode="a" if resumed else "w", encoding="utf-8")
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
            "overrides": job.overrides,
            "traceback": traceback.format_exc(),
            "config": job.config,
        }
        write_json(run_dir / FAILURE_FILE, failure)
        raise
    finally:
        package.removeHandler(handler)
        Guard(LOG_FILE)(handler.close)
