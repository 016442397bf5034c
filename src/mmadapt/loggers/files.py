"""Curves in files of the run's folder: ``logger=csv`` and ``logger=tensorboard``."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from mmadapt.errors import UserError
from mmadapt.results import Result


class CsvCurves(CSVLogger):
    """``metrics.csv``, a row per epoch."""

    called = "The CSV logger"

    def __init__(self, run_dir: Path) -> None:
        """Start the file anew; each row is flushed, so that a killed run keeps its curve."""
        (run_dir / "metrics.csv").unlink(missing_ok=True)
        super().__init__(run_dir, name="", version="", flush_logs_every_n_steps=1)


class TensorBoardCurves(TensorBoardLogger):
    """Curves, the configuration as text and, below ``final/``, the scores of every set."""

    called = "TensorBoard"

    def __init__(self, run_dir: Path, config: Mapping[str, Any]) -> None:
        """Open event files in ``<run>/tensorboard``, without those of an earlier attempt.

        Raises:
            UserError: If no package that writes them is installed.
        """
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
