"""One Lightning step per epoch: the same steps as `Method.training_step` batch by batch, at the cost of a bare loop.

Features in memory make a step so short that Lightning's own work per batch is most of the time. Fitted so, it is
paid once per epoch. The oracle is Lightning's automatic optimisation: ``tests/training/test_epoch_fit.py`` compares
the weights bit by bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor

from mmadapt.errors import UserError
from mmadapt.methods.base import Method

WeightedBatch = tuple[tuple[Tensor, Tensor], float]
"""Inputs and labels of this process's share of a batch, and the weight of its loss: 1 on a single device."""


def needs_textbook(trainer: Trainer) -> list[str]:
    """Return the options of a trainer that act on every batch, so that it has to see them one by one."""
    options = []
    if trainer.gradient_clip_val:
        options.append("gradient_clip_val")
    if trainer.accumulate_grad_batches != 1:
        options.append("accumulate_grad_batches")
    limit = trainer.limit_train_batches  # overfit_batches sets it, too
    if limit != 1 or isinstance(limit, int):  # 1.0 is all of them, 1 a single one
        options.append("limit_train_batches")
    if trainer.max_steps != -1:
        options.append("max_steps")
    return options


def fit(trainer: Trainer, method: Method, data: Any, *, textbook: bool = False) -> None:
    """Fit a method on resident data, by whole epochs where nothing asks for single batches.

    Args:
        trainer: The trainer; its options decide.
        method: The method.
        data: Its features or images in memory.
        textbook: Let Lightning see every batch in any case, as a callback of the user's may want to.

    Raises:
        UserError: If an option needs single batches and several processes share each of them, or a loss is no
            number.
    """
    options = needs_textbook(trainer)
    if trainer.world_size > 1 and options:
        raise UserError(
            f"trainer.{options[0]} is not supported on several devices: they share each batch. Use trainer.devices=1."
        )
    data.whole_epochs = not options and (not textbook or trainer.world_size > 1)
    if data.whole_epochs:
        with epochs_as_steps(method):
            trainer.fit(method, datamodule=data)
    else:
        trainer.fit(method, datamodule=data)


@contextmanager
def epochs_as_steps(method: Method) -> Iterator[None]:
    """Let a method take whole epochs, from loaders like `EpochLoader`, as its batches."""
    method.automatic_optimization = False
    method.training_step = MethodType(_epoch, method)  # type: ignore[method-assign]
    try:
        yield
    finally:
        del method.training_step  # the instance's; the class keeps its own
        method.automatic_optimization = True


def _epoch(method: Method, batch: Iterable[WeightedBatch], batch_idx: int) -> None:
    """Run the steps of one epoch."""
    trainer, step = method.trainer, type(method).training_step
    if not trainer.optimizers:
        raise UserError(f"{type(method).__name__} has nothing to train; use method.epochs=0.")
    (optimizer,) = trainer.optimizers
    schedules = {config.interval: config.scheduler for config in trainer.lr_scheduler_configs}
    precision = trainer.precision_plugin
    scaler = precision.scaler if isinstance(precision, MixedPrecision) else None
    means = _Means()
    with means.instead_of_log(method):
        for index, (own, means.weight) in enumerate(batch):
            loss: Any = step(method, own, index)
            loss = means.weight * loss
            optimizer.zero_grad(set_to_none=True)
            scaled = loss if scaler is None else scaler.scale(loss)
            trainer.strategy.pre_backward(scaled)  # several processes: average the gradients of this step
            scaled.backward()
            if scaler is None:
                optimizer.step()
            else:
                scaler.step(optimizer)
                scaler.update()
            if "step" in schedules:
                schedules["step"].step()
    if "epoch" in schedules:
        schedules["epoch"].step()
    for name, parts in means.parts.items():
        mean = torch.stack(parts).mean()
        method.log(name, mean, sync_dist=trainer.world_size > 1)
        if name == "train/loss":
            method.check_loss(float(mean))


class _Means:
    """Takes the place of a module's `log` for an epoch, where a call of it costs as much as a step."""

    def __init__(self) -> None:
        self.parts: dict[str, list[Tensor]] = {}
        self.weight = 1.0

    def log(self, name: str, value: Any, **options: Any) -> None:
        value = torch.as_tensor(value, dtype=torch.get_default_dtype()).detach()
        self.parts.setdefault(name, []).append(self.weight * value)

    def log_dict(self, values: Mapping[str, Any], **options: Any) -> None:
        for name, value in values.items():
            self.log(name, value)

    @contextmanager
    def instead_of_log(self, method: Method) -> Iterator[None]:
        method.log, method.log_dict = self.log, self.log_dict  # type: ignore[assignment, method-assign]
        try:
            yield
        finally:
            del method.log, method.log_dict
