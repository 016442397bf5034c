"""The processes of a run on several devices: who writes, how the others are started, how they agree."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, distributed

from mmadapt.errors import UserError

if TYPE_CHECKING:
    from lightning import Trainer

T = TypeVar("T")


def this_process() -> tuple[int, int]:
    """Return rank and number of processes; (0, 1) outside a distributed run."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def barrier() -> None:
    """Wait for the other processes, if there are any."""
    if this_process()[1] > 1:
        distributed.barrier()


def gathered(value: T) -> list[T]:
    """Return the values of all processes, by rank."""
    every: list[Any] = [value] * this_process()[1]
    if len(every) > 1:
        distributed.all_gather_object(every, value)
    return every


def summed(value: int) -> int:
    """Return the sum of a whole number over all processes."""
    return sum(gathered(value))


def joined(names: list[str]) -> list[str]:
    """Return the names of all processes, those of rank 0 first."""
    return list(chain(*gathered(names)))


def from_main(value: T) -> T:
    """Return the value that rank 0 has."""
    return gathered(value)[0]


def global_mean(values: Tensor) -> Tensor:
    """Return the mean of values (B,) over the shares of all processes; no gradient crosses processes."""
    if this_process()[1] == 1:
        return values.mean()
    parts = torch.stack([values.detach().sum(), values.new_tensor(float(len(values)))])
    distributed.all_reduce(parts)
    return parts[0] / parts[1]


@contextmanager
def all_processes(trainer: Trainer) -> Iterator[None]:
    """Start the other processes of a run at once, and join them; does nothing for a single device.

    Lightning starts them at its first ``fit``. Started here, before any image is encoded, they share the
    encoding too; ``fit`` and ``test`` then find them running. Each repeats this command up to this line. If
    the main process fails, the others are stopped, where they would wait for it.

    Raises:
        UserError: If the strategy starts processes in another way.
    """
    if trainer.world_size == 1:
        yield
        return
    from lightning.pytorch.strategies import DDPStrategy

    launcher = trainer.strategy.launcher
    if not isinstance(trainer.strategy, DDPStrategy) or (launcher and not hasattr(launcher, "procs")):
        name = getattr(trainer.strategy, "strategy_name", type(trainer.strategy).__name__)
        raise UserError(f"trainer.strategy={name} is not supported on several devices. Use trainer=ddp.")
    if launcher is not None:
        launcher.launch(lambda: None)
    trainer.strategy.setup_environment()
    try:
        yield
    except BaseException:
        if launcher is not None:
            launcher.kill(signal.SIGKILL)
        raise
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
