"""How a method is trained: the part of ``conf/method/*.yaml`` that is the same for all methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, TypedDict

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mmadapt.errors import UserError, one_of

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


def check_recipe(
    epochs: int,
    batch_size: int,
    selection: str,
    schedule_by: str,
    views: int,
    crop_scale: tuple[float, float],
) -> None:
    """Refuse values that make no sense.

    Raises:
        UserError: Naming the value and what is accepted.
    """
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
