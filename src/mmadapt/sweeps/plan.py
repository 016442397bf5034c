"""What each job of a sweep would do, found out without computing or writing anything."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mmadapt.config.messages import explain_value
from mmadapt.config.schema import resolve
from mmadapt.config.trainer_options import debug_note
from mmadapt.errors import UserError
from mmadapt.results import FAILURE_FILE, Result
from mmadapt.runs.job import stored
from mmadapt.runs.locks import LOCK_FILE, holder
from mmadapt.runs.process_count import check_devices, several_processes
from mmadapt.sweeps.options import LaunchOptions

State = Literal["done", "to do", "refused", "failed before", "running"]


@dataclass(frozen=True)
class Cell:
    """One job of a sweep.

    Attributes:
        overrides: What the sweeper chose for it.
        run_dir: Folder of the run.
        state: What a sweep would find: ``done`` and ``refused`` leave nothing to compute.
        reason: Why it is refused, how it failed before, or who computes it.
        own_process: It must run in a fresh process.
        place: What an estimate of its cost is looked up by: clip, data, method and shots.
        config: The resolved configuration; empty if it is refused.
        result: The stored result of a job that is done.
    """

    overrides: tuple[str, ...]
    run_dir: Path
    state: State
    reason: str
    own_process: bool
    place: tuple[str, str, str, int]
    config: Mapping[str, Any]
    result: Result | None = None

    @property
    def debug(self) -> str:
        """What is said of a debug run, which no stored result replaces; nothing of an ordinary one."""
        return debug_note(self.config.get("trainer", {}))


def look(config: DictConfig, overrides: Sequence[str]) -> Cell:
    """Find out what a job would do.

    Raises:
        UserError: If not even its folder can be named, because a value is missing or makes no sense.
    """
    with _active(config):
        try:
            run_dir = Path(os.path.abspath(Path(config.hydra.sweep.dir, config.hydra.sweep.subdir)))
        except OmegaConfBaseException as error:
            raise UserError(f"{' '.join(overrides)}: {explain_value(error)}") from error
        task = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        choices, launcher = config.hydra.runtime.choices, str(config.hydra.launcher._target_)
        here = launcher.startswith("mmadapt.")
        return look_at(task, choices["method"], run_dir, tuple(overrides), here=here)


def look_at(
    task: DictConfig, method: str, run_dir: Path, overrides: tuple[str, ...], *, here: bool = True
) -> Cell:
    """Find out what a job would do from its configuration without the ``hydra`` node.

    Args:
        task: The configuration.
        method: The chosen option of that group.
        run_dir: Folder of the run.
        overrides: What the sweeper chose for it.
        here: It would run on this machine, so its devices have to be here.
    """
    try:
        plain = resolve(task)
        options = LaunchOptions.read(plain.pop("launch", None))
        place = (plain["clip"]["name"], plain["data"]["name"], method, plain["shots"])
        own = options.isolate or several_processes(plain["trainer"])
        debug = debug_note(plain["trainer"])
        result = None if debug else stored(run_dir, plain)
        if here and result is None:
            check_devices(plain["trainer"], options.devices if isinstance(options.devices, tuple) else None)
        if result is not None:  # a thousand of them are kept until they are reported
            result = replace(result, config={}, provenance={})
    except (UserError, OmegaConfBaseException) as error:
        reason = explain_value(error)
        return Cell(overrides, run_dir, "refused", reason, False, ("", "", method, 0), {})
    state, reason = state_of(run_dir) if result is None else ("done", "")
    if debug:
        state, reason = "to do", debug
    return Cell(overrides, run_dir, state, reason, own, place, plain, result)


def state_of(run_dir: Path) -> tuple[State, str]:
    """Return the state of a run without a result, and what there is to say about it."""
    if (busy := holder(run_dir / LOCK_FILE)) is not None:
        return "running", str(busy)
    if (error := failure(run_dir)) is not None:
        return "failed before", error
    return "to do", ""


def failure(run_dir: Path) -> str | None:
    """Return the first line of the note of a failure, or None if there is none."""
    try:
        note = json.loads((run_dir / FAILURE_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        return f"{FAILURE_FILE} cannot be read"
    return str(note.get("error", "")).strip().split("\n")[0]


@contextmanager
def _active(config: DictConfig) -> Iterator[None]:
    """Make a composed configuration the one that ``${hydra:…}`` refers to."""
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)
    try:
        yield
    finally:
        HydraConfig.instance().cfg = before
