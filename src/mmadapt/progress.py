"""Progress bars for work that lasts longer than two seconds; silent below that and outside rank 0."""

from __future__ import annotations

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

from mmadapt.guard import Guard, say
from mmadapt.ranks import is_main_process

T = TypeVar("T")

PATIENCE_SECONDS = 2.0
_REDRAW_SECONDS = 0.1


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f}/s" if task.speed and not task.fields["note"] else "")


class _Remaining(TimeRemainingColumn):
    def render(self, task: Task) -> Text:
        return Text("") if task.fields["note"] else super().render(task)


class ProgressBar:
    """A bar with count, rate and time left that shows itself only when the work turns out to be long.

    On a terminal it is drawn live on stderr, below the bar of a sweep if there is one; elsewhere (a log file,
    CI) a line is printed every ten seconds. After the first error all bars of the process are silent.
    """

    shared: Progress | None = None
    """The display of all bars of the process, the sweep's among them; a terminal can hold one only."""
    guard: Guard
    """Draws them."""

    def __init__(self, label: str, total: int) -> None:
        """Start the clock; ``total`` is the number of steps."""
        self.label, self.total, self.done = label, total, 0
        self._start = self._last = time.monotonic()
        self._console = RaisingConsole(stderr=True)
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._silent = not is_main_process()

    def advance(self, steps: int = 1) -> None:
        """Count finished steps."""
        self.done += steps
        now = time.monotonic()
        if self._silent or now - self._start < PATIENCE_SECONDS:
            return
        if self._console.is_interactive:
            ProgressBar.guard(self._draw, now)
        elif self.done and now - self._last >= 10:
            self._last = now
            rate = self.done / (now - self._start)
            left = (self.total - self.done) / rate
            say(f"{self.label}: {self.done}/{self.total}, {rate:,.0f}/s, {left:,.0f} s left", "stderr")

    def close(self) -> None:
        """Take the bar off the screen, for good; once more does nothing."""
        self._silent = True
        bar, self._bar = self._bar, None
        if bar is not None:
            ProgressBar.guard(_remove, bar, self._task)

    def _draw(self, now: float) -> None:
        if self._bar is None:
            if ProgressBar.shared is None:
                ProgressBar.shared = live_display(self._console)
            self._bar = ProgressBar.shared
            self._task = self._bar.add_task(self.label, total=self.total, note="")
            self._bar.start()
        if now - self._last >= _REDRAW_SECONDS:
            self._last = now
            self._bar.update(self._task, completed=self.done, refresh=True)


def _remove(display: Progress, task: TaskID) -> None:
    """Take a bar off its display, and the display off the screen with its last bar."""
    display.remove_task(task)
    if display.tasks:
        display.refresh()
    elif display is ProgressBar.shared:
        stop_display()


def stop_display() -> None:
    """Take all bars off the screen."""
    display, ProgressBar.shared = ProgressBar.shared, None
    if display is not None:
        display.stop()


ProgressBar.guard = Guard("The progress bar", leave=stop_display)


class RaisingConsole(Console):
    """A console that raises the error of a broken pipe, for a guard, where Rich's own ends the process."""

    def on_broken_pipe(self) -> None:
        """Raise the error that is being handled."""
        raise


def live_display(console: Console) -> Progress:
    """Return a display of bars that vanishes when it is stopped; each task has a ``note`` to show.

    It is drawn by the thread that works, not by one of its own whose errors nobody catches.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        _Remaining(),
        TextColumn("{task.fields[note]}"),
    )
    redirect = sys.stdout is not None and sys.stdout.isatty()
    return Progress(*columns, console=console, transient=True, auto_refresh=False, redirect_stdout=redirect)


def track(items: Iterable[T], label: str, total: int) -> Iterator[T]:
    """Yield the items and show progress."""
    bar = ProgressBar(label, total)
    try:
        for item in items:
            yield item
            bar.advance()
    finally:
        bar.close()
