"""What accompanies the training of a small adapter: the best state on val, and a progress bar."""

from __future__ import annotations

from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from mmadapt.progress import ProgressBar


class KeepBest(Callback):
    """Remembers, in memory, the adapter of the epoch with the highest ``val/top1``; the first of equals.

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
        if trainer.sanity_checking:
            return
        self.consider(trainer.current_epoch + 1, float(trainer.callback_metrics["val/top1"]), pl_module)

    def consider(self, epoch: int, score: float, module: LightningModule) -> None:
        """Keep the module's state if the score of this epoch, counted from 1, is better than all before."""
        if score > self.score:
            self.epoch, self.score = epoch, score
            self._state = {key: value.detach().clone() for key, value in module.state_dict().items()}

    def restore(self, module: LightningModule) -> None:
        """Put the best state back into the module."""
        if self._state:
            module.load_state_dict(self._state)

    def state_dict(self) -> dict[str, Any]:
        """Return what is remembered, for a checkpoint."""
        return {"epoch": self.epoch, "score": self.score, "state": self._state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember what a checkpoint holds."""
        self.epoch, self.score = state_dict["epoch"], state_dict["score"]
        self._state = state_dict["state"]


class TrainProgress(Callback):
    """Shows epochs, rate and time left once training lasts longer than two seconds."""

    def __init__(self) -> None:
        """Start without a bar."""
        self._bar: ProgressBar | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        left = (trainer.max_epochs or 0) - trainer.current_epoch  # all, unless it was interrupted
        self._bar = ProgressBar(f"training {type(pl_module).__name__} (epochs)", left)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count an epoch."""
        if self._bar is not None:
            self._bar.advance()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the bar off."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Take the bar off after an error or Ctrl-C, when Lightning calls no other hook."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
