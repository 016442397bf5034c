"""What the caches of shots share: their order, and the released grid of the search."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmadapt.errors import UserError


def search_grid(scale: float, steps: int) -> list[float]:
    """Return ``0.1 + i (scale − 0.1) / steps`` for i < steps: the released grid, upper end excluded."""
    return [0.1 + i * (scale - 0.1) / steps for i in range(steps)]


def check_grid(scale: Sequence[float] | None, steps: Sequence[int]) -> None:
    """Refuse an empty grid of β and α; None searches nothing.

    Raises:
        UserError: Saying where it starts.
    """
    if scale is not None and (min(scale) <= 0.1 or min(steps) < 1):
        raise UserError(
            f"method.search_scale={list(scale)}, search_step={list(steps)}: the grid of β and α starts at 0.1."
        )


def shots_per_class(labels: Tensor, classes: int) -> int:
    """Return K if labels are K times class 0, then K times class 1 and so on; 0 if they are anything else."""
    shots, rest = divmod(len(labels), classes)
    if rest or not shots:
        return 0
    expected = torch.arange(classes, device=labels.device).repeat_interleave(shots)
    return shots if torch.equal(labels, expected) else 0
