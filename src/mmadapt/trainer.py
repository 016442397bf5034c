"""The Lightning trainer of a run, and what of it is not up to the configuration."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import Trainer

from mmadapt.config import instantiate
from mmadapt.errors import UserError

_LIVE_TRAINER = (
    "callbacks",
    "logger",
    "default_root_dir",
    "enable_checkpointing",
    "enable_model_summary",
    "use_distributed_sampler",
)


def build_trainer(config: Mapping[str, Any], run_dir: Path) -> Trainer:
    """Build the trainer and its logger for a run's folder.

    Raises:
        UserError: If a key of it is not the configuration's to set, or asks for what does not exist here.
    """
    node = dict(config["trainer"])
    for key in _LIVE_TRAINER:
        if key in node:
            raise UserError(f"trainer.{key} is set by mmadapt itself; remove it.")
    if node.get("max_steps", -1) != -1 or node.get("max_time") is not None:
        raise UserError(
            "trainer.max_steps and max_time do not apply: one Lightning step is one epoch here. Use method.epochs."
        )
    precision = str(node.get("precision", ""))
    if precision in ("16-true", "bf16-true"):
        name = precision.removesuffix("-true")
        raise UserError(
            f"trainer.precision={precision} would store what is learned in 16 bits, too few for small learning rates. "
            f"Use clip.precision={'fp16' if name == '16' else name} or trainer.precision={name}-mixed."
        )
    logger = _logger(config["logger"], run_dir)
    trainer: Trainer = instantiate(
        node, "trainer", logger=logger, callbacks=[], default_root_dir=run_dir,
        enable_checkpointing=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    if trainer.world_size > 1:
        raise UserError(
            f"trainer.devices={config['trainer'].get('devices')}: training on several devices is not available yet. "
            "Use trainer.devices=1."
        )
    return trainer


def _logger(node: Mapping[str, Any], run_dir: Path) -> Any:
    if not node:
        return False
    if str(node.get("_target_", "")).endswith("CSVLogger"):
        (run_dir / "metrics.csv").unlink(missing_ok=True)
        return instantiate(node, "logger", save_dir=run_dir, name="", version="")
    return instantiate(node, "logger", save_dir=run_dir)


def quiet() -> None:
    """Keep Lightning's hints about devices and loaders out of a sweep's output."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*")
