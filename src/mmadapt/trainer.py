"""The Lightning trainer of a run, and what of it is not up to the configuration."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import MixedPrecision

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


class ScaledGradients(MixedPrecision):
    """Scales the loss where the towers are float16 and nothing else is: their gradients underflow without it."""

    def forward_context(self) -> AbstractContextManager[None]:  # type: ignore[override]
        """Leave every operation in the precision that its tensors have."""
        return nullcontext()


def build_trainer(config: Mapping[str, Any], run_dir: Path, loggers: Sequence[Logger] = ()) -> Trainer:
    """Build the trainer for a run's folder.

    Raises:
        UserError: If a key of it is not the configuration's to set, or asks for what does not exist here.
    """
    _quiet()
    node = {"log_every_n_steps": 1, **config["trainer"]}  # a step is an epoch
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
    trainer: Trainer = instantiate(
        node, "trainer", logger=list(loggers), callbacks=[], default_root_dir=run_dir,
        enable_checkpointing=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    plain = not isinstance(trainer.precision_plugin, MixedPrecision)
    if plain and config["clip"].get("precision") == "fp16":
        trainer.strategy.precision_plugin = ScaledGradients("16-mixed", trainer.strategy.root_device.type)
    return trainer


def _quiet() -> None:
    """Keep Lightning's hints about devices and loaders out of a sweep's output."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*")
