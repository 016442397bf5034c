"""The state of the best epoch on val, kept in memory."""

from __future__ import annotations

from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import Tensor


class KeepBest(Callback):
    """Remembers the adapter of the epoch with the highest ``val/top1``, the first of equals, and puts it back.

    Attributes:
        epoch: That epoch, counted from 1.
        score: Its top-1 on val.
    """

    def __init__(self) -> None:
        """Start without a state."""
        self.epoch, self.score = 0, float("-inf")
        self._state: dict[str, Tensor] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep this epoch's state if it is better than all before."""
        score = float(trainer.callback_metrics["val/top1"])
        if not trainer.sanity_checking and trainer.state.fn == "fit" and score > self.score:
            self.epoch, self.score = trainer.current_epoch + 1, score
            self._state = {key: value.detach().clone() for key, value in pl_module.state_dict().items()}

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the best state back, before the module's own `on_fit_end` chooses by it."""
        if self._state:
            pl_module.load_state_dict(self._state)

    def state_dict(self) -> dict[str, Any]:
        """Return what is remembered, for a checkpoint."""
        return {"epoch": self.epoch, "score": self.score, "state": self._state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember what a checkpoint holds."""
        self.epoch, self.score = state_dict["epoch"], state_dict["score"]
        self._state = state_dict["state"]
