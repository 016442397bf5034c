"""How many processes and which GPUs a run asks for, known before torch is imported."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from mmadapt.errors import UserError

ALL = -1
"""All devices there are, Lightning's ``devices=-1``."""


def wanted(trainer: Mapping[str, Any]) -> int | tuple[int, ...]:
    """Return what ``trainer.devices`` asks for: a number, `ALL`, or certain indices.

    Raises:
        UserError: If it makes no sense.
    """
    value = trainer.get("devices", "auto")
    if value == "auto":
        return 1 if trainer.get("accelerator") == "cpu" else ALL
    found = value
    if isinstance(value, str):
        parts = [part.strip() for part in value.split(",") if part.strip()]
        if parts and all(re.fullmatch(r"-?\d+", part) for part in parts):
            found = int(parts[0]) if "," not in value else [int(part) for part in parts]
    if type(found) is int and (found >= 1 or found == ALL):
        return found
    indices = tuple(found) if isinstance(found, list) else ()
    if (
        indices
        and all(type(index) is int and index >= 0 for index in indices)
        and len({*indices}) == len(indices)
    ):
        return indices
    raise UserError(
        f"trainer.devices={value!r} must be a number of at least 1, auto or -1 for all, or a list such as [0,2]."
    )


def check_devices(trainer: Mapping[str, Any], gpus: Sequence[str] | None = None) -> None:
    """Refuse more processes than this machine has cores, or GPUs that are not there, before a process is started.

    Args:
        trainer: That part of the configuration.
        gpus: Names of the GPUs of ``launch.devices``; None for all that are visible.

    Raises:
        UserError: Saying how many there are.
    """
    accelerator = trainer.get("accelerator", "auto")
    if accelerator not in ("auto", "cpu", "gpu", "cuda", None):
        return
    asked = wanted(trainer)
    names = visible_devices() if gpus is None else gpus
    if accelerator != "cpu" and names:
        _check_gpus(asked, names, "This machine has" if gpus is None else "launch.devices has")
        return
    if accelerator == "cpu" and (asked == ALL or isinstance(asked, tuple)):
        raise UserError(
            f"trainer.devices={trainer['devices']} names GPUs, but trainer.accelerator=cpu. Use a number of processes."
        )
    # All the cores of the machine: a scheduler gives each of several processes a part of them.
    number, cores = asked if isinstance(asked, int) else len(asked), os.cpu_count() or 1
    if number > cores:
        none = "" if accelerator == "cpu" else "No GPU is visible. "
        raise UserError(
            f"trainer.devices={trainer['devices']} asks for {number} processes, and this machine has {cores} cores. "
            f"{none}Use trainer.devices={cores} at most."
        )


def _check_gpus(asked: int | tuple[int, ...], names: Sequence[str], where: str) -> None:
    there = f"{where} {len(names)}: {', '.join(names)}."
    if isinstance(asked, tuple) and not all(index < len(names) for index in asked):
        raise UserError(f"trainer.devices={list(asked)} names a device that is not there. {there}")
    if isinstance(asked, int) and asked > len(names):
        raise UserError(f"trainer.devices={asked} asks for more devices than there are. {there}")


def several_processes(trainer: Mapping[str, Any]) -> bool:
    """Return whether Lightning would start processes of its own for this run."""
    strategy = trainer.get("strategy", "auto")
    if strategy not in ("auto", "single_device", None) or trainer.get("num_nodes", 1) not in (1, None):
        return True
    devices = wanted(trainer)
    if devices == ALL:
        return len(visible_devices()) > 1
    return (devices if isinstance(devices, int) else len(devices)) > 1


def secondary_process(trainer: Mapping[str, Any]) -> bool:
    """Return whether this process is one that rank 0 of the run started, or a launcher beside it."""
    ranks = (os.environ.get(name, "0") for name in ("LOCAL_RANK", "RANK", "NODE_RANK", "SLURM_PROCID"))
    return any(rank not in ("", "0") for rank in ranks) and several_processes(trainer)


def visible_devices() -> tuple[str, ...]:
    """Return the GPUs this process may use, without importing torch.

    ``MMADAPT_DEVICES`` and then ``CUDA_VISIBLE_DEVICES`` name them; else nvidia-smi counts them.
    """
    for variable in ("MMADAPT_DEVICES", "CUDA_VISIBLE_DEVICES"):
        if variable in os.environ:
            named = (name.strip() for name in os.environ[variable].split(","))
            return tuple(name for name in named if name and name != "-1")
    return _counted()


@lru_cache(maxsize=1)
def _counted() -> tuple[str, ...]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    command = [tool, "--query-gpu=index", "--format=csv,noheader"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):  # a driver that does not answer: as if there were no GPU
        return ()
    return tuple(line.strip() for line in listed.splitlines() if line.strip())
