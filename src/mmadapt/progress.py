"""Progress bars for work that lasts longer than two seconds; silent below that and outside rank 0."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import ParamSpec, TypeVar

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

P = ParamSpec("P")

log = logging.getLogger(__name__)
T = TypeVar("T")


class Guard:
    """Calls what only shows a result, until it raises an error: that is told once, and then it is silent.

    Attributes:
        broken: Whether it has raised one.
    """

    def __init__(self, name: str, advice: str = "", leave: Callable[[], object] | None = None) -> None:
        """Start with nothing broken.

        Args:
            name: What to call it in the warning.
            advice: What the user can do about an error.
            leave: Called after an error, to leave things in order.
        """
        self.broken = False
        self._name, self._advice, self._leave = name, advice, leave

    def __call__(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Return what a function returns; None after an error. Ctrl-C and the like pass."""
        if self.broken:
            return None
        try:
            return function(*args, **kwargs)
        except Exception as error:
            self.broken = True
            if self._leave is not None:
                try:
                    self._leave()
                except Exception:
                    log.info("%s could not be ended in order", self._name, exc_info=True)
            log.warning(
                "%s stopped with %s: %s. The run and its result are not affected.%s",
                self._name,
                type(error).__name__,
                error,
                self._advice,
            )
            if not isinstance(error, OSError):  # a full disk or a closed terminal is no bug to look for
                log.info("Where it happened", exc_info=error)
            return None


_LINES = {name: Guard(f"What is printed to {name}") for name in ("stdout", "stderr")}


def say(line: str, stream: str = "stdout") -> None:
    """Print a line at once to ``stdout`` or ``stderr``; to nobody if nothing can be printed there any more."""
    _LINES[stream](print, line, file=getattr(sys, stream), flush=True)


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


_RANKS = ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "RANK", "SLURM_PROCID")


def is_main_process() -> bool:
    """Return whether this process writes files and talks to the user."""
    return all(os.environ.get(name, "0") == "0" for name in _RANKS)
