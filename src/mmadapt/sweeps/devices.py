"""Which processes and GPUs a run asks for, and a lock on each GPU so that no two runs share one."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmadapt.runs.locks import FileLock, Holder, holder, try_lock
from mmadapt.runs.process_count import ALL, _check_gpus, visible_devices, wanted
from mmadapt.sweeps.options import LaunchOptions


def lock_folder() -> Path:
    """Return where the locks of the devices lie: ``MMADAPT_LOCKS``, else the user's cache."""
    default = Path.home() / ".cache" / "mmadapt" / "locks"
    return Path(os.environ.get("MMADAPT_LOCKS", default))


class Lease:
    """Devices that one run has for itself."""

    def __init__(self, names: tuple[str, ...], locks: list[FileLock], visible: tuple[str, ...]) -> None:
        self.names, self._locks = names, locks
        self.environment = {"CUDA_VISIBLE_DEVICES": ",".join(visible)} if visible else {}

    @property
    def handles(self) -> tuple[int, ...]:
        """The open lock files, to be inherited by the process of the run."""
        return tuple(lock.handle for lock in self._locks)

    def hand_over(self, pid: int) -> None:
        """Leave the locks to the process that inherited them: they are free when it ends."""
        for lock in self._locks:
            lock.sign(pid)
            lock.hand_over()
        self._locks = []

    def release(self) -> None:
        """Give the devices back."""
        for lock in self._locks:
            lock.release()
        self._locks = []


class DevicePool:
    """The devices of this host that a sweep may use, shared with other sweeps through the locks."""

    def __init__(self, options: LaunchOptions) -> None:
        self.names = visible_devices() if options.devices == "auto" else tuple(options.devices or ())

    def take(self, trainer: Mapping[str, Any]) -> Lease | None:
        """Return devices for a run, or None while too few are free.

        A run on the CPU, or on a host without GPUs, gets an empty lease.

        Raises:
            UserError: If the run asks for more devices than there are.
        """
        if not self.names or trainer.get("accelerator") not in ("auto", "gpu", "cuda", None):
            return Lease((), [], ())
        asked = wanted(trainer)
        _check_gpus(asked, self.names, "launch.devices has")
        if isinstance(asked, tuple):
            candidates, number = tuple(self.names[index] for index in asked), len(asked)
        else:
            candidates, number = self.names, len(self.names) if asked == ALL else asked
        locks: list[FileLock] = []
        taken: list[str] = []
        for name in candidates:
            if len(taken) < number and (lock := try_lock(_lock_file(name))) is not None:
                locks.append(lock)
                taken.append(name)
        if len(taken) < number:  # all or nothing: two runs that hold one device each and want two never wait
            for lock in locks:
                lock.release()
            return None
        # Indices count among the visible devices, so a run that names some must see them all.
        return Lease(tuple(taken), locks, self.names if isinstance(asked, tuple) else tuple(taken))

    def holders(self) -> dict[str, Holder]:
        """Return who holds which device."""
        found = {name: holder(_lock_file(name)) for name in self.names}
        return {name: who for name, who in found.items() if who is not None}


def _lock_file(name: str) -> Path:
    safe = re.sub(r"[^\w.-]", "_", name)
    return lock_folder() / f"gpu{safe}.lock"
