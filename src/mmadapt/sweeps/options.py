"""The ``launch`` node of the configuration, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mmadapt.errors import UserError, did_you_mean


@dataclass(frozen=True)
class LaunchOptions:
    """How runs are started; nothing here changes a number.

    Attributes:
        dry_run: Print what would be computed and compute nothing.
        isolate: Every run of a sweep in a fresh process.
        jobs: Runs of a sweep side by side; above 1 each has a process of its own.
        devices: GPUs the processes share: ``auto`` for all visible ones, their names, or None to leave the
            choice to Lightning.
        fail_fast: Stop a sweep at its first failure.
    """

    dry_run: bool = False
    isolate: bool = False
    jobs: int = 1
    devices: str | tuple[str, ...] | None = "auto"
    fail_fast: bool = False

    @classmethod
    def read(cls, node: Mapping[str, Any] | None) -> LaunchOptions:
        """Check the resolved node.

        Raises:
            UserError: Naming the key, what it holds and what it may hold.
        """
        values = dict(node or {})
        names = [field.name for field in fields(cls)]
        for key in values:
            if key not in names:
                raise UserError(
                    f"launch.{key} is not a setting{did_you_mean(str(key), names)}. Accepted: {', '.join(names)}."
                )
        for key in ("dry_run", "isolate", "fail_fast"):
            if not isinstance(values.get(key, False), bool):
                raise UserError(f"launch.{key}={values[key]!r} must be true or false.")
        jobs = values.get("jobs", 1)
        if not isinstance(jobs, int) or isinstance(jobs, bool) or jobs < 1:
            raise UserError(f"launch.jobs={jobs!r} must be a whole number of at least 1: runs side by side.")
        if isinstance(values.get("devices"), list):
            values["devices"] = tuple(str(device) for device in values["devices"])
        options = cls(**values)
        named = options.devices
        if isinstance(named, tuple) and (not named or len(set(named)) < len(named) or "" in named):
            raise UserError(f"launch.devices=[{','.join(named)}] must name each device once, at least one.")
        if not (named is None or named == "auto" or isinstance(named, tuple)):
            raise UserError(f"launch.devices={named!r} must be auto, null or a list such as [0,1].")
        return options


def read_options(master: DictConfig) -> LaunchOptions:
    """Return the options of a sweep.

    Raises:
        UserError: If they make no sense.
    """
    node = OmegaConf.to_container(master.launch, resolve=True) if "launch" in master else {}
    if not isinstance(node, dict):
        raise UserError(f"launch={node!r} must hold settings such as launch.jobs=2.")
    return LaunchOptions.read({str(key): value for key, value in node.items()})
