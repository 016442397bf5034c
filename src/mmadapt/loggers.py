"""Loggers of a run: ``logger=csv``, ``tensorboard``, ``wandb``, ``none``, or several as ``'logger=[csv,wandb]'``.

A logger shows a run; the result is `result.json`, which is written first. So the first error of a logger is
a warning, the logger falls silent and the run goes on.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml
from hydra.utils import get_class
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from mmadapt.config import instantiate, parameters
from mmadapt.errors import UserError, did_you_mean, one_of
from mmadapt.guard import Guard
from mmadapt.results import DETAILS_FILE, Result, RunKey

log = logging.getLogger(__name__)

KINDS = ("csv", "tensorboard", "wandb")
WANDB_OPTIONS = ("entity", "project", "mode", "suffix", "confusion_matrix", "reliability", "table",
                 "system_metrics", "upload_timeout")  # fmt: skip
_SWITCHES = (*KINDS, "confusion_matrix", "reliability", "table", "system_metrics")
_ROWS_BEFORE_FLUSH = 1  # a row per epoch is little, and a killed run keeps its curve


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


def open_loggers(node: Mapping[str, Any], key: RunKey, config: Mapping[str, Any], run_dir: Path) -> Loggers:
    """Open the loggers that a configuration asks for; on ranks above zero, none.

    Args:
        node: The ``logger`` part of the configuration: kinds that are switched on, options of W&B, and
            nodes with ``_target_`` for other loggers of Lightning.
        key: Identity of the run.
        config: The whole resolved configuration, which the loggers show.
        run_dir: Folder of the run. Curves of an earlier attempt there are removed.

    Raises:
        UserError: If a key or value is unknown, or a package is missing.
    """
    check_options(node)
    if getattr(rank_zero_only, "rank", 0):
        return Loggers([], run_dir)
    opened: list[Guarded] = []
    if node.get("csv"):
        (run_dir / "metrics.csv").unlink(missing_ok=True)
        csv = CSVLogger(run_dir, name="", version="", flush_logs_every_n_steps=_ROWS_BEFORE_FLUSH)
        opened.append(Guarded(csv, "The CSV logger"))
    if node.get("tensorboard"):
        opened.append(Guarded(_TensorBoard(run_dir, config), "TensorBoard"))
    for name, other in node.items():
        if isinstance(other, Mapping):
            accepted = parameters(get_class(str(other["_target_"]))) or set()
            place = {"save_dir": run_dir} if "save_dir" in accepted - other.keys() else {}
            opened.append(Guarded(instantiate(other, f"logger.{name}", **place), f"logger.{name}"))
    if node.get("wandb"):
        from mmadapt.wandb_run import SYNC_ADVICE, open_wandb

        run = open_wandb(node, key, config)
        if run is not None:
            opened.append(Guarded(run, "W&B", SYNC_ADVICE))
    return Loggers(opened, run_dir)


def check_options(node: Mapping[str, Any]) -> None:
    """Refuse an unknown key or a senseless value of the ``logger`` part.

    Raises:
        UserError: Naming it.
    """
    accepted = (*KINDS, *WANDB_OPTIONS)
    for name, value in node.items():
        if isinstance(value, Mapping) and "_target_" in value:
            continue
        if name not in accepted:
            raise UserError(
                f"logger.{name} is not an option of a logger{did_you_mean(name, accepted)}. "
                f"Accepted: {', '.join(accepted)}; or a node of your own with _target_, as logger.mlflow._target_."
            )
        if name in _SWITCHES and not isinstance(value, bool):
            raise UserError(f"logger.{name}={value!r} must be true or false.")
    if node.get("mode") is not None:
        one_of("logger.mode", node["mode"], ("online", "offline", "disabled"))
    timeout = node.get("upload_timeout", 1)
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout <= 0:
        raise UserError(f"logger.upload_timeout={timeout!r} must be a number of seconds above 0.")


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


class _TensorBoard(TensorBoardLogger):
    """Curves, the configuration as text and, below ``final/``, the scores of every set."""

    def __init__(self, run_dir: Path, config: Mapping[str, Any]) -> None:
        if not any(importlib.util.find_spec(name) for name in ("tensorboard", "tensorboardX")):
            raise UserError(
                "logger=tensorboard needs a package that is not installed: pip install 'mmadapt[tensorboard]'."
            )
        shutil.rmtree(run_dir / "tensorboard", ignore_errors=True)
        super().__init__(run_dir, name="", version="tensorboard", default_hp_metric=False)
        text = yaml.safe_dump(dict(config), sort_keys=False)
        self.experiment.add_text("config", "\n".join(f"    {line}" for line in text.splitlines()))

    def final(self, result: Result, details: Mapping[str, Any]) -> None:
        """Write the final scores at the last epoch."""
        step = int(result.selection.get("epoch", 0))
        self.log_metrics({f"final/{name}": value for name, value in result.scalars().items()}, step)

    def close(self, failed: bool) -> None:
        """Write everything to disk."""
        self.finalize("failed" if failed else "success")
