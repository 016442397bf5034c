"""Loggers of a run: ``logger=csv``, ``tensorboard``, ``wandb``, ``none``, or several as ``'logger=[csv,wandb]'``.

A logger shows a run; the result is `result.json`, which is written first. So the first error of a logger is
a warning, the logger falls silent and the run goes on.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from mmadapt.config.build import instantiate, locate, parameters
from mmadapt.errors import UserError
from mmadapt.progress import Guard
from mmadapt.results import DETAILS_FILE, Result, RunKey

log = logging.getLogger(__name__)


class Guarded(Logger):
    """Hands everything on to a logger until that logger raises an error.

    Attributes:
        inner: The logger.
        guard: Calls it.
    """

    def __init__(self, inner: Logger, name: str, advice: str = "") -> None:
        """Guard a logger.

        Args:
            inner: The logger.
            name: What to call it in the warning.
            advice: What the user can do about an error.
        """
        super().__init__()
        self.inner, self.guard = inner, Guard(name, advice)

    @property
    def name(self) -> str | None:
        """Name of the inner logger."""
        return self.guard(getattr, self.inner, "name")

    @property
    def version(self) -> int | str | None:
        """Version of the inner logger."""
        return self.guard(getattr, self.inner, "version")

    @property
    def save_dir(self) -> str | None:
        """Folder of the inner logger."""
        return self.guard(getattr, self.inner, "save_dir")

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Hand metrics on."""
        self.call("log_metrics", metrics, step)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Hand hyper-parameters on."""
        self.call("log_hyperparams", params, *args, **kwargs)

    def save(self) -> None:
        """Let the inner logger write what it holds."""
        self.call("save")

    def finalize(self, status: str) -> None:
        """Tell the inner logger that a fit or test has ended."""
        self.call("finalize", status)

    def call(self, method: str, *args: Any, **kwargs: Any) -> None:
        """Call a method of the inner logger, if it has it and has not failed before."""
        function = getattr(self.inner, method, None)
        if function is not None:
            self.guard(function, *args, **kwargs)


class Loggers:
    """The open loggers of one run; closes them with the run's fate when the ``with`` block ends.

    A logger may have two methods beside those of Lightning: ``final(result, details)`` and ``close(failed)``.

    Attributes:
        all: The loggers, for ``Trainer(logger=...)``.
    """

    def __init__(self, loggers: list[Guarded], run_dir: Path) -> None:
        """Hold the loggers of the run in a folder."""
        self.all, self._run_dir = loggers, run_dir

    def finish(self, result: Result) -> None:
        """Log the final scores and cost; call it when ``result.json`` has been written."""
        details = read_details(self._run_dir)
        for logger in self.all:
            logger.call("final", result, details)

    def __enter__(self) -> Loggers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for logger in self.all:
            logger.guard.broken = False  # also what has failed is to be closed
            logger.call("close", error is not None)


def open_loggers(
    node: Mapping[str, Any] | None, key: RunKey, config: Mapping[str, Any], run_dir: Path
) -> Loggers:
    """Open the loggers that a configuration asks for; on ranks above zero, none.

    Args:
        node: The ``logger`` part of the configuration: a node with ``_target_`` for each logger, any of Lightning's or
            of the user's own. Of ``run_dir``, ``save_dir``, ``key`` and ``config`` it gets what it has a parameter for.
        key: Identity of the run.
        config: The whole resolved configuration, which the loggers show.
        run_dir: Folder of the run. Curves of an earlier attempt there are removed.

    Raises:
        UserError: If a key or value is unknown, or a package is missing.
    """
    if getattr(rank_zero_only, "rank", 0):
        return Loggers([], run_dir)
    live = {"run_dir": run_dir, "save_dir": run_dir, "key": key, "config": config}
    opened: list[Guarded] = []
    for name, own in (node or {}).items():
        if own is None:
            continue
        if not isinstance(own, Mapping) or "_target_" not in own:
            raise UserError(
                f"logger.{name}={own!r} is no logger: give a node with _target_, as logger.mlflow._target_=…, or "
                "choose from conf/logger, as 'logger=[csv,wandb]'. Options of W&B are logger.wandb.mode and the like."
            )
        accepted = parameters(locate(str(own["_target_"]), f"logger.{name}")) or set()
        given = {name: value for name, value in live.items() if name in accepted - own.keys()}
        logger = instantiate(own, f"logger.{name}", **given)
        if logger is not None:
            called = getattr(logger, "called", f"logger.{name}")
            opened.append(Guarded(logger, called, getattr(logger, "advice", "")))
    return Loggers(opened, run_dir)


def read_details(run_dir: Path) -> dict[str, Any]:
    """Return what ``details.json`` of a run holds by the name of the scored set; empty if there is none."""
    try:
        details: dict[str, Any] = json.loads((run_dir / DETAILS_FILE).read_text(encoding="utf-8"))["sets"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError) as error:
        log.warning("%s cannot be read (%s); the loggers show nothing of it.", run_dir / DETAILS_FILE, error)
        return {}
    return details
