"""Progress bars for work that lasts longer than two seconds; silent below that and outside rank 0."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

T = TypeVar("T")

PATIENCE_SECONDS = 2.0


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f}/s" if task.speed and not task.fields["note"] else "")


class _Remaining(TimeRemainingColumn):
    def render(self, task: Task) -> Text:
        return Text("") if task.fields["note"] else super().render(task)


class ProgressBar:
    """A bar with count, rate and time left that shows itself only when the work turns out to be long.

    On a terminal it is drawn live on stderr, below the bar of a sweep if there is one; elsewhere (a log file,
    CI) a line is printed every ten seconds.
    """

    shared: Progress | None = None
    """The live display of a sweep; a terminal can hold one display only."""

    def __init__(self, label: str, total: int) -> None:
        """Start the clock; ``total`` is the number of steps."""
        self.label, self.total, self.done = label, total, 0
        self._start = self._last = time.monotonic()
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._silent = not is_main_process()

    def advance(self, steps: int = 1) -> None:
        """Count finished steps."""
        self.done += steps
        now = time.monotonic()
        if self._silent or now - self._start < PATIENCE_SECONDS:
            return
        if self._console.is_terminal:
            self._draw()
        elif now - self._last >= 10:
            self._last = now
            rate = self.done / (now - self._start)
            left = (self.total - self.done) / rate
            print(
                f"{self.label}: {self.done}/{self.total}, {rate:,.0f}/s, {left:,.0f} s left", file=sys.stderr
            )

    def close(self) -> None:
        """Take the bar off the screen."""
        if self._bar is None:
            return
        if self._bar is ProgressBar.shared:
            self._bar.remove_task(self._task)
        else:
            self._bar.stop()

    def _draw(self) -> None:
        if self._bar is None:
            self._bar = ProgressBar.shared or live_display(self._console)
            self._task = self._bar.add_task(self.label, total=self.total, note="")
            self._bar.start()
        self._bar.update(self._task, completed=self.done)


def live_display(console: Console) -> Progress:
    """Return a display of bars that vanishes when it is stopped; each task has a ``note`` to show."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        _Remaining(),
        TextColumn("{task.fields[note]}"),
    )
    return Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty())


def track(items: Iterable[T], label: str, total: int) -> Iterator[T]:
    """Yield the items and show progress."""
    bar = ProgressBar(label, total)
    try:
        for item in items:
            yield item
            bar.advance()
    finally:
        bar.close()


_RANKS = ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "RANK", "SLURM_PROCID")


def is_main_process() -> bool:
    """Return whether this process writes files and talks to the user."""
    return all(os.environ.get(name, "0") == "0" for name in _RANKS)
