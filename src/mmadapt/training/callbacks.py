"""What accompanies the training of a small adapter: a progress bar, and the seconds of its phases."""

from __future__ import annotations

from lightning import Callback, LightningModule, Trainer

from mmadapt.progress import ProgressBar
from mmadapt.training.cost import Clock


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


class Phases(Callback):
    """Notes when a fit has encoded its data, seen the shots and trained; the search on val comes after it."""

    def __init__(self, clock: Clock) -> None:
        """Bind the clock of a run."""
        self.clock = clock

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """End the encoding: the data module is set up, the method not yet."""
        if stage == "fit":
            self.clock.lap("encode_seconds")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the method's look at its shots."""
        self.clock.lap("adapt_seconds")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the training."""
        self.clock.lap("train_seconds")
