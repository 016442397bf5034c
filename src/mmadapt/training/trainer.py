"""The Lightning trainer of a run, and what of it is not up to the configuration."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import MixedPrecision

from mmadapt.config.build import instantiate
from mmadapt.config.trainer_options import check
from mmadapt.errors import UserError


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
    node = {"log_every_n_steps": 1, **config["trainer"]}  # a step is an epoch
    check(node)
    _quiet()
    if node.get("profiler"):  # what it prints is of the level INFO
        logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO)
    try:
        trainer: Trainer = instantiate(
            node,
            "trainer",
            logger=list(loggers),
            callbacks=[],
            default_root_dir=run_dir,
            enable_checkpointing=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
    except UserError:
        raise
    except (MisconfigurationException, ImportError, TypeError, ValueError) as error:
        raise UserError(f"Lightning refuses these values of trainer: {error}") from error
    if str(node.get("precision")).startswith("16") and trainer.precision != "16-mixed":
        raise UserError(f"trainer.precision={node['precision']} needs a GPU. Use bf16-mixed or 32-true here.")
    plain = not isinstance(trainer.precision_plugin, MixedPrecision)
    if plain and config["clip"].get("precision") == "fp16":
        trainer.strategy.precision_plugin = ScaledGradients("16-mixed", trainer.strategy.root_device.type)
    return trainer


def _quiet() -> None:
    """Keep Lightning's hints about devices and loaders out of a sweep's output."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*")
