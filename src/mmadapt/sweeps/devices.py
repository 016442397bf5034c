"""Which processes and GPUs a run asks for, and a lock on each GPU so that no two runs share one."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mmadapt.runs.locks import FileLock, Holder, holder, try_lock
from mmadapt.runs.process_count import ALL, _check_gpus, visible_devices, wanted
from mmadapt.sweeps.options import LaunchOptions


def lock_folder() -> Path:
    """Return where the locks of the devices lie: ``MMADAPT_LOCKS``, else the user's cache."""
    default = Path.home() / ".cache" / "mmadapt" / "locks"
    return Path(os.environ.get("MMADAPT_LOCKS", default))


@dataclass(frozen=True)
class Lease:
    """Devices of a run, or of a worker.

    Attributes:
        names: Their names.
        environment: What shows a process these devices alone.
        handles: The open lock files, to be inherited by the process: it holds the locks too, until it ends.
        release: Gives the devices back.
    """

    names: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    handles: tuple[int, ...] = ()
    release: Callable[[], None] = lambda: None


class DevicePool:
    """The devices of this host that a sweep may use, kept from other sweeps by the locks.

    Where ``launch.jobs`` is more than the devices, single-device runs of this sweep share them evenly.
    """

    def __init__(self, options: LaunchOptions) -> None:
        self.names = visible_devices() if options.devices == "auto" else tuple(options.devices or ())
        self._share = math.ceil(options.jobs / max(len(self.names), 1))
        self._held: dict[str, FileLock] = {}
        self._users = Counter[str]()

    def kind(self, trainer: Mapping[str, Any]) -> str:
        """Return a word for what a run asks for: runs of one kind can follow each other in a process."""
        return str(wanted(trainer)) if self._needs_gpus(trainer) else "cpu"

    def take(self, trainer: Mapping[str, Any]) -> Lease | None:
        """Return devices for a run, or None while too few are free.

        A run on the CPU, or on a host without GPUs, gets an empty lease.

        Raises:
            UserError: If the run asks for more devices than there are.
        """
        if not self._needs_gpus(trainer):
            return Lease()
        asked = wanted(trainer)
        _check_gpus(asked, self.names, "launch.devices has")
        if isinstance(asked, tuple):
            candidates, number = tuple(self.names[index] for index in asked), len(asked)
        else:
            candidates, number = self.names, len(self.names) if asked == ALL else asked
        share = self._share if number == 1 else 1
        taken: list[str] = []
        for name in sorted(candidates, key=lambda name: self._users[name]):
            if len(taken) < number and self._users[name] < share and self._lock(name):
                self._users[name] += 1
                taken.append(name)
        if len(taken) < number:  # all or nothing: two runs that hold one device each and want two never wait
            self._give_back(taken)
            return None
        taken.sort(key=self.names.index)
        # Indices count among the visible devices, so a run that names some must see them all.
        visible = self.names if isinstance(asked, tuple) else taken
        handles = tuple(self._held[name].handle for name in taken)
        return Lease(
            tuple(taken),
            {"CUDA_VISIBLE_DEVICES": ",".join(visible)},
            handles,
            partial(self._give_back, taken),
        )

    def _needs_gpus(self, trainer: Mapping[str, Any]) -> bool:
        return bool(self.names) and trainer.get("accelerator") in ("auto", "gpu", "cuda", None)

    def _lock(self, name: str) -> bool:
        if name not in self._held and (lock := try_lock(_lock_file(name))) is not None:
            self._held[name] = lock
        return name in self._held

    def _give_back(self, names: list[str]) -> None:
        for name in names:
            self._users[name] -= 1
            if not self._users[name]:
                self._held.pop(name).release()
        names.clear()  # a second call gives nothing back

    def holders(self) -> dict[str, Holder]:
        """Return who holds which device."""
        found = {name: holder(_lock_file(name)) for name in self.names}
        return {name: who for name, who in found.items() if who is not None}


def _lock_file(name: str) -> Path:
    safe = re.sub(r"[^\w.-]", "_", name)
    return lock_folder() / f"gpu{safe}.lock"
