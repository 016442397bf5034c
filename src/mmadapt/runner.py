"""Around one run: skip it if it is finished, refuse a clash, note a failure, write its files."""

from __future__ import annotations

import logging
import shlex
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
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
    job = Job(cfg, choices, run_dir, overrides)
    finished = finished_result(job)
    if finished is not None:
        return Outcome("skipped", run_dir, time.perf_counter() - start, finished)
    with noted(job):
        from mmadapt.experiment import run

        result = complete(job, run(job.config, job.key, run_dir))
    return Outcome("done", run_dir, time.perf_counter() - start, result)


@dataclass(frozen=True)
class Job:
    """One job of a command: the composed configuration and where its run goes.

    Attributes:
        cfg: The composed configuration.
        choices: The chosen option of each configuration group.
        run_dir: Folder of the run.
        overrides: The command-line overrides, noted with the result.
    """

    cfg: DictConfig
    choices: Mapping[str, str]
    run_dir: Path
    overrides: Sequence[str]

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration as plain containers, checked."""
        return resolve(self.cfg)

    @property
    def key(self) -> RunKey:
        """The identity of the run."""
        config = self.config
        protocol, clip, data = (config[group]["name"] for group in ("protocol", "clip", "data"))
        return RunKey(
            config["tag"], protocol, clip, data, self.choices["method"], config["shots"], config["seed"]
        )


def finished_result(job: Job) -> Result | None:
    """Return the result that the run's folder already holds of this configuration.

    Raises:
        UserError: If it holds one of another configuration, and ``overwrite`` does not allow to replace it.
    """
    config, run_dir = job.config, job.run_dir
    finished = Result.read(run_dir)
    if finished is None or finished.fingerprint == fingerprint(config):
        return finished
    if not config["overwrite"]:
        changed = differences(finished.config, config)
        listed = "; ".join(changed[:8]) + ("; …" if len(changed) > 8 else "")
        raise UserError(
            f"{run_dir} holds a result of another configuration ({listed}). "
            "Use tag=<new> to keep both or overwrite=true to replace it."
        )
    return None


def complete(job: Job, result: Result) -> Result:
    """Add what was typed to the result and write it and the configuration to the run's folder."""
    typed = {
        "command": shlex.join(["python", "-m", "mmadapt", *job.overrides]),
        "overrides": list(job.overrides),
        "choices": {group: job.choices[group] for group in _GROUPS},
    }
    result = replace(result, provenance={**result.provenance, **typed})
    text = OmegaConf.to_yaml(OmegaConf.create(job.config))
    (job.run_dir / CONFIG_FILE).write_text(text, encoding="utf-8")
    result.write(job.run_dir)
    return result


@contextmanager
def noted(job: Job, *, resumed: bool = False) -> Iterator[None]:
    """Write the log of the run, after what is there if ``resumed``, and ``failed.json`` if it does not get through."""
    run_dir = job.run_dir
    run_dir.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(run_dir / LOG_FILE, mode="a" if resumed else "w", encoding="utf-8")
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
            "overrides": list(job.overrides),
            "traceback": traceback.format_exc(),
            "config": job.config,
        }
        write_json(run_dir / FAILURE_FILE, failure)
        raise
    finally:
        package.removeHandler(handler)
        handler.close()
