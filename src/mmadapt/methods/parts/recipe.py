"""How a method is trained: the part of ``conf/method/*.yaml`` that is the same for all methods."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal, TypedDict

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mmadapt.errors import UserError, one_of
from mmadapt.features.encoder import Views
from mmadapt.methods.parts.keep_best import KeepBest
from mmadapt.methods.parts.schedules import Cosine

Selection = Literal["last", "best_val"]


class Recipe(TypedDict, total=False):
    """How a method is trained; the same keys in each ``conf/method/*.yaml``.

    Attributes:
        optimizer: Called with the trainable parameters.
        scheduler: Called with the optimiser and the total number of steps; None keeps the rate.
        schedule_by: What one step of the scheduler is.
        epochs: Passes over the shots; 0 for training-free methods.
        batch_size: Images per step; an epoch's last batch may be smaller.
        selection: Keep the weights of the last epoch, or of the epoch that scored best on val.
        views: Augmented views of each training image to draw from; 0 is the test-time view alone.
        crop_scale: Range of the random crop's area.
    """

    optimizer: Callable[[Iterable[Tensor]], Optimizer]
    scheduler: Callable[[Optimizer, int], LRScheduler] | None
    schedule_by: Literal["epoch", "step"]
    epochs: int
    batch_size: int
    selection: Selection
    views: int
    crop_scale: tuple[float, float]


class TrainedByRecipe(LightningModule):
    """A LightningModule with the optimiser, schedule, epochs and selection of a `Recipe`."""

    def __init__(
        self,
        *,
        optimizer: Callable[[Iterable[Tensor]], Optimizer] = partial(torch.optim.AdamW, lr=1e-3),
        scheduler: Callable[[Optimizer, int], LRScheduler] | None = Cosine,
        schedule_by: Literal["epoch", "step"] = "step",
        epochs: int = 0,
        batch_size: int = 256,
        selection: Selection = "last",
        views: int = 0,
        crop_scale: tuple[float, float] = (0.08, 1.0),
    ) -> None:
        """Bind the recipe.

        Raises:
            UserError: If a value makes no sense.
        """
        super().__init__()
        self.save_hyperparameters(ignore=["clip", "classes", "text_features"], logger=False)
        if epochs < 0 or batch_size < 1 or views < 0:
            raise UserError(
                f"method.epochs={epochs}, batch_size={batch_size}, views={views}: "
                "need epochs ≥ 0, batch_size ≥ 1, views ≥ 0."
            )
        one_of("method.selection", selection, ("last", "best_val"))
        one_of("method.schedule_by", schedule_by, ("epoch", "step"))
        if not 0 < crop_scale[0] <= crop_scale[1] <= 1:
            raise UserError(
                f"method.crop_scale={list(crop_scale)} must be two rising shares of the area in (0, 1]."
            )
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.schedule_by = schedule_by
        self.epochs = epochs
        self.batch_size = batch_size
        self.selection = selection
        self.view_spec = Views(views, (float(crop_scale[0]), float(crop_scale[1])))

    def trainable_parameters(self) -> list[torch.nn.Parameter]:
        """Return the module's own parameters, in a fixed order."""
        return [p for p in self.parameters() if p.requires_grad]

    def configure_optimizers(self) -> Any:
        """Return optimiser and schedule; None if there is nothing to train.

        Raises:
            UserError: If epochs are asked for and there is nothing to train.
        """
        parameters = self.trainable_parameters()
        if not parameters:
            if self.epochs:
                raise UserError(f"{type(self).__name__} has nothing to train; use method.epochs=0.")
            return None
        optimizer = self.optimizer(parameters)
        if self.scheduler is None or not self.trainer.max_epochs:
            return optimizer
        total = self.trainer.max_epochs if self.schedule_by == "epoch" else self._total_steps()
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.scheduler(optimizer, total), "interval": self.schedule_by},
        }

    def check_loss(self, mean: float) -> None:
        """Refuse a mean training loss that is no number.

        Raises:
            UserError: Naming the epoch, counted from 1.
        """
        if not math.isfinite(mean):
            epoch = self.trainer.current_epoch + 1
            raise UserError(
                f"The loss of {type(self).__name__} became {mean} in epoch {epoch}. Lower method.optimizer.lr."
            )

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Log the learning rate, of a whole epoch its first."""
        if self.trainer.optimizers:
            self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"])

    def configure_callbacks(self) -> list[Callback]:
        """Return what keeps the best epoch on val, if the recipe asks for it."""
        return [KeepBest()] if self.selection == "best_val" else []

    def _total_steps(self) -> int:
        stepping = int(self.trainer.estimated_stepping_batches)
        # A loader whose one item is a whole epoch says how many batches are in it.
        return stepping * int(getattr(self.trainer.train_dataloader, "steps_per_epoch", 1))

    @property
    def trainer(self) -> Trainer:
        """The trainer that fits this module; without a limit of its own it runs the epochs of the recipe."""
        return super().trainer

    @trainer.setter
    def trainer(self, trainer: Trainer | None) -> None:
        LightningModule.trainer.fset(self, trainer)  # type: ignore[attr-defined]
        if trainer is not None and trainer.max_epochs is None and trainer.max_steps == -1:
            trainer.fit_loop.max_epochs = self.epochs
