"""Where in α an image is classified rightly by ``L + α S``: one interval per image, solved for and not tried.

Class y wins against class c where ``(L_y − L_c) + α (S_y − S_c) ≥ 0``: a half-line of α. With
``u_c = (S_c − S_y) / (L_y − L_c)`` it is ``1/α ≥ u_c`` where y leads without the cache and ``1/α ≤ u_c`` where it
trails, so that the interval is the inverse of ``[max u, min u]`` over the two groups of classes.

Each interval comes twice, with the leads lowered and raised by a bound of the rounding: within the first the
image is surely right, outside the second surely wrong. What lies between is left to the formula itself.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Intervals(NamedTuple):
    """Closed intervals of α ≥ 0, empty where ``high < low``.

    Attributes:
        low: Lower ends (..., V).
        high: Upper ends (..., V), perhaps infinite.
    """

    low: Tensor
    high: Tensor

    def on_grid(self, grid: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first grid index inside and the first behind, (..., V) each; 0 and 0 where there is none."""
        first = torch.searchsorted(grid, self.low.contiguous())
        stop = torch.searchsorted(grid, self.high.contiguous(), right=True)
        some = first < stop
        return first * some, stop * some


class Leads:
    """The zero-shot side of the intervals, to be met with any number of votes.

    Attributes:
        others: Where a class is not the image's own, (V, C).
    """

    def __init__(self, zero_shot: Tensor, labels: Tensor) -> None:
        """Compute the leads.

        Args:
            zero_shot: Scaled zero-shot logits L (V, C).
            labels: Class of each image (V,).
        """
        self._own = labels[:, None]
        self._lead = zero_shot.gather(1, self._own) - zero_shot
        self.others = torch.ones_like(zero_shot, dtype=torch.bool).scatter_(1, self._own, value=False)
        self._rounding = 8 * torch.finfo(zero_shot.dtype).eps
        self._size = zero_shot.abs().amax()

    def meet(self, votes: Tensor, alpha_max: float, error: float) -> tuple[Intervals, Intervals]:
        """Return the intervals on which images are surely and possibly right.

        Args:
            votes: Class affinities S ≥ 0 of the cache (..., V, C).
            alpha_max: Largest α that matters.
            error: Relative error of the votes, with that of the votes they are compared to.
        """
        slack = self._rounding * self._size + alpha_max * (2 * error + self._rounding) * votes.amax()
        own = self._own.expand(*votes.shape[:-1], 1)
        ahead = votes - votes.gather(-1, own)  # S_c − S_y
        return self._bounds(ahead, self._lead - slack), self._bounds(ahead, self._lead + slack)

    def _bounds(self, ahead: Tensor, lead: Tensor) -> Intervals:
        tiny = torch.finfo(lead.dtype).tiny
        leads = lead > 0
        inverse = torch.where(lead.abs() < tiny, tiny, lead).reciprocal_()
        zero = lead.new_zeros(())
        steepest = ahead * inverse
        trailed = (steepest + torch.where(self.others & ~leads, zero, torch.inf)).amin(dim=-1)
        led = steepest.add_(torch.where(self.others & leads, zero, -torch.inf)).amax(dim=-1)
        return Intervals(
            torch.where(trailed > 0, trailed.reciprocal(), torch.inf),
            torch.where(led > 0, led.reciprocal(), torch.inf),
        )


def count_on_grid(first: Tensor, stop: Tensor, points: int) -> Tensor:
    """Return how many of the index ranges ``first ≤ i < stop``, (R, V) each, hold each i < points, (R, points)."""
    edges = torch.zeros(len(first), points + 1, dtype=torch.long, device=first.device)
    ones = torch.ones_like(first)
    edges.scatter_add_(1, first, ones).scatter_add_(1, stop, -ones)
    return edges.cumsum(dim=1)[:, :-1]


class Stretch(NamedTuple):
    """The widest of the stretches of α on which most intervals overlap.

    Attributes:
        held: Number of intervals that hold it.
        low: Its lower end.
        high: Its upper end.
    """

    held: int
    low: float
    high: float


def best_stretch(intervals: Intervals, alpha_max: float) -> Stretch:
    """Sweep the ends of intervals (V,) over ``(0, alpha_max]`` and return the best stretch."""
    low, high = intervals.low.double(), intervals.high.double().clamp(max=alpha_max)
    some = low < high
    low, high = low[some], high[some]
    ends, order = torch.cat([low.new_tensor([0.0, alpha_max]), low, high]).sort(stable=True)
    steps = torch.cat([low.new_zeros(2), torch.ones_like(low), -torch.ones_like(high)])[order]
    counts, widths = steps.cumsum(0)[:-1].long(), ends.diff()
    counts = counts.masked_fill(widths <= 0, -1)
    top = int(torch.where(counts == counts.amax(), widths, -1.0).argmax())
    return Stretch(int(counts[top]), float(ends[top]), float(ends[top + 1]))
