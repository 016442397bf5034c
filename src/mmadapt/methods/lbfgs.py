"""L-BFGS for smooth convex functions, with little work besides the evaluations (Nocedal & Wright, algorithm 7.5).

`torch.optim.LBFGS` spends more time between two evaluations than in one of a few-shot problem, and often evaluates
two or three times per step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

DECREASE, CURVATURE, TRIALS = 1e-4, 0.9, 30
Objective = Callable[[Tensor], tuple[float, Tensor]]
"""From x to the value and the gradient there, shaped like x."""


@dataclass
class Minimum:
    """Where the descent ended.

    Attributes:
        x: The point.
        value: The objective there.
        gradient: Its gradient there.
        evaluations: How often the objective was evaluated, the start included.
    """

    x: Tensor
    value: float
    gradient: Tensor
    evaluations: int = 1

    @property
    def steepest(self) -> float:
        """Largest entry of the gradient, by magnitude."""
        return float(self.gradient.abs().max())


def minimise(
    objective: Objective, start: Tensor, *, tolerance: float, max_iterations: int, history: int = 6
) -> Minimum:
    """Descend until no entry of the gradient exceeds the tolerance, or no step lowers the objective any more.

    Args:
        objective: A convex function, scaled so that its curvature at the start is about one.
        start: Where to begin; not changed.
        tolerance: Largest gradient entry at which it stops.
        max_iterations: Limit of steps.
        history: Steps remembered.
    """
    at = Minimum(start, *objective(start))
    past: deque[tuple[Tensor, Tensor, float]] = deque(maxlen=history)
    for _ in range(max_iterations):
        if not at.steepest > tolerance:
            break
        direction = _direction(at.gradient, past)
        after = _search(objective, at, direction)
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


def _search(objective: Objective, at: Minimum, direction: Tensor) -> Minimum | None:
    """Return a point along the direction that meets the strong Wolfe conditions, None if none is found.

    A convex function is lower wherever it still falls; so rounding of its value cannot stop the search.
    """
    first = _dot(at.gradient, direction)
    low, high, slope_low, slope_high, length = 0.0, float("inf"), first, 0.0, 1.0
    for trial in range(1, TRIALS):
        x = at.x.add(direction, alpha=length)
        after = Minimum(x, *objective(x), at.evaluations + trial)
        slope = _dot(after.gradient, direction)
        if slope < CURVATURE * first:
            low, slope_low = length, slope
        elif slope > -CURVATURE * first or (slope > 0 and after.value > at.value + DECREASE * length * first):
            high, slope_high = length, slope
        elif slope == slope:
            return after
        else:
            return None
        if high == float("inf"):
            length *= 4
        else:
            share = -slope_low / (slope_high - slope_low)
            length = low + (high - low) * min(max(share, 0.1), 0.9)
    return None
