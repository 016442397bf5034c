"""What a run costs: seconds of its phases, peak memory."""

from __future__ import annotations

import resource
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch

_PROCESS = Path("/proc/self")


class Clock:
    """Seconds of the phases of a run.

    Attributes:
        seconds: Seconds by phase.
    """

    def __init__(self) -> None:
        """Start the first phase."""
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str, *, before: float = 0.0) -> None:
        """End a phase; ``before`` is what an interrupted attempt had spent on it."""
        now = time.perf_counter()
        self.seconds[name] = round(before + now - self._last, 4)
        self._last = now


def reset_peak_memory(device: torch.device) -> None:
    """Forget the peak of earlier runs in this process, where the system allows it (CUDA, Linux)."""
    if device.type == "cuda":
        torch.cuda.init()  # before the first tensor there is no device to ask
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):
            (_PROCESS / "clear_refs").write_text("5")


def peak_memory_mib(device: torch.device) -> float:
    """Return the highest memory use since the reset: of the GPU if there is one, else of the whole process."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    with suppress(OSError, StopIteration, ValueError):
        lines = (_PROCESS / "status").read_text().splitlines()
        peak = next(line for line in lines if line.startswith("VmHWM"))
        return round(int(peak.split()[1]) / 1024, 1)
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)
