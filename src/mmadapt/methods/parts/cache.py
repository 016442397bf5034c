"""What the caches of shots share: their options, their order, and the released grid of the search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from mmadapt.errors import UserError
from mmadapt.methods.parts.recipe import Recipe

SearchAlpha = Literal["grid", "exact"]


class CacheOptions(Recipe, total=False):
    """What a method that extends `mmadapt.methods.tip_adapter.TipAdapter` passes on to it."""

    search_scale: Sequence[float] | None
    search_step: Sequence[int]
    search_alpha: SearchAlpha
    logit_scale: float | None
    text_features: Tensor | None


def search_grid(scale: float, steps: int) -> list[float]:
    """Return ``0.1 + i (scale − 0.1) / steps`` for i < steps: the released grid, upper end excluded."""
    return [0.1 + i * (scale - 0.1) / steps for i in range(steps)]


def search_grids(scale: Sequence[float] | None, steps: Sequence[int]) -> tuple[list[float], list[float]]:
    """Return the grids of β and α of given upper ends and numbers of points; empty ones if nothing is searched.

    Raises:
        UserError: If a grid that is searched is empty.
    """
    if scale is None:
        return [], []
    if min(scale) <= 0.1 or min(steps) < 1:
        raise UserError(
            f"method.search_scale={list(scale)}, search_step={list(steps)}: the grid of β and α starts at 0.1."
        )
    return search_grid(scale[0], steps[0]), search_grid(scale[1], steps[1])


def shots_per_class(labels: Tensor, classes: int) -> int:
    """Return K if labels are K times class 0, then K times class 1 and so on; 0 if they are anything else."""
    shots, rest = divmod(len(labels), classes)
    if rest or not shots:
        return 0
    expected = torch.arange(classes, device=labels.device).repeat_interleave(shots)
    return shots if torch.equal(labels, expected) else 0
