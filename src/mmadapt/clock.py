"""Seconds of the phases of a run."""

from __future__ import annotations

import time


class Clock:
    """Seconds of the phases of a run.

    Attributes:
        seconds: Seconds by phase.
    """

    def __init__(self) -> None:
        """Start the first phase."""
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str, seconds: float | None = None, *, before: float = 0.0) -> None:
        """End a phase; a phase that was noted before, as a share of a stack's, keeps its seconds.

        Args:
            name: The phase.
            seconds: How long it took; None is since the last phase ended.
            before: What an interrupted attempt had spent on it.
        """
        now = time.perf_counter()
        if seconds is not None or name not in self.seconds:
            self.seconds[name] = round(before + (now - self._last if seconds is None else seconds), 4)
        self._last = now
