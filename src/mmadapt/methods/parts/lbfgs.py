"""L-BFGS for smooth convex functions, with little work besides the evaluations (Nocedal & Wright, algorithm 7.5).

On a few-shot problem `torch.optim.LBFGS` spends more time between two evaluations than in one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

DECREASE, CURVATURE, TRIALS = 1e-4, 0.9, 30
Objective = Callable[[Tensor], tuple[float, Tensor]]
"""From x to the value and the gradient there, shaped like x."""


@dataclass
class Point:
    """A point and what the objective is there.

    Attributes:
        x: The point.
        value: The objective.
        gradient: Its gradient, shaped like ``x``.
    """

    x: Tensor
    value: float
    gradient: Tensor

    @property
    def steepest(self) -> float:
        """Largest entry of the gradient, by magnitude."""
        return float(self.gradient.abs().max())


def minimise(
    objective: Objective, start: Tensor, *, tolerance: float, max_iterations: int, history: int = 6
) -> Point:
    """Descend until no entry of the gradient exceeds the tolerance, or no step lowers the objective any more.

    Args:
        objective: A convex function, scaled so that its curvature is about one.
        start: Where to begin; not changed.
        tolerance: Largest gradient entry at which it stops.
        max_iterations: Limit of steps.
        history: Steps remembered.
    """
    at = Point(start, *objective(start))
    past: deque[tuple[Tensor, Tensor, float]] = deque(maxlen=history)
    for _ in range(max_iterations):
        if not at.steepest > tolerance:  # so that a gradient of NaN ends it too
            break
        after = _search(objective, at, _direction(at.gradient, past))
        if after is None:
            break
        step, change = after.x - at.x, after.gradient - at.gradient
        curvature = _dot(step, change)
        if curvature > 0:
            past.append((step, change, curvature))
        at = after
    return at


def _dot(some: Tensor, other: Tensor) -> float:
    return float(some.flatten().dot(other.flatten()))


def _direction(gradient: Tensor, past: deque[tuple[Tensor, Tensor, float]]) -> Tensor:
    """Return minus the gradient times the inverse Hessian as the past steps show it."""
    direction, shares = gradient.neg(), []
    for step, change, curvature in reversed(past):
        shares.append(_dot(step, direction) / curvature)
        direction.add_(change, alpha=-shares[-1])
    if past:
        _, change, curvature = past[-1]
        direction.mul_(curvature / _dot(change, change))
    for (step, change, curvature), share in zip(past, reversed(shares), strict=True):
        direction.add_(step, alpha=share - _dot(change, direction) / curvature)
    return direction


def _search(objective: Objective, at: Point, direction: Tensor) -> Point | None:
    """Return a point along the direction that meets the strong Wolfe conditions, None if none is found.

    A convex function has decreased wherever it still falls, so the value is looked at only beyond its minimum: near
    the end it is all rounding.
    """
    first = _dot(at.gradient, direction)
    if not first < 0:
        return None
    low, high, slope_low, slope_high, length = 0.0, math.inf, first, 0.0, 1.0
    for _ in range(TRIALS):
        x = at.x.add(direction, alpha=length)
        after = Point(x, *objective(x))
        slope = _dot(after.gradient, direction)
        short = slope < CURVATURE * first
        far = slope > 0 and after.value > at.value + DECREASE * length * first
        if not short and not far and slope <= -CURVATURE * first:
            return after
        if short:
            low, slope_low = length, slope
        else:
            high, slope_high = length, math.inf if math.isnan(slope) else slope
        share = -slope_low / (slope_high - slope_low)
        inside = low + (high - low) * min(max(share, 0.1), 0.9)
        length = 4 * length if math.isinf(high) else inside
    return None
