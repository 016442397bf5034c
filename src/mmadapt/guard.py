"""What only shows a run never costs it: the first error of a bar, a logger, a printed line is a warning, no more."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)


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
                self._name, type(error).__name__, error, self._advice,
            )  # fmt: skip
            if not isinstance(error, OSError):  # a full disk or a closed terminal is no bug to look for
                log.info("Where it happened", exc_info=error)
            return None


_LINES = {name: Guard(f"What is printed to {name}") for name in ("stdout", "stderr")}


def say(line: str, stream: str = "stdout") -> None:
    """Print a line at once to ``stdout`` or ``stderr``; to nobody if nothing can be printed there any more."""
    _LINES[stream](print, line, file=getattr(sys, stream), flush=True)
