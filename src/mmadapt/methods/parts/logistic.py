"""L2-regularised multinomial logistic regression, by preconditioned L-BFGS along a path of strengths."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

Objective = Callable[[Tensor], tuple[float, Tensor]]
"""From x to the value and the gradient there, shaped like x."""

_SMALL = 10**8
"""Multiply-adds of an evaluation below which a second thread costs more than it brings."""

_SINGLE = 1e-5
"""Gradient entry down to which single precision is followed; below, rounding would mislead it."""


@contextmanager
def _threads(device: torch.device, work: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if device.type == "cpu" and work < _SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class LogisticRegression:
    """Fits W (C, D) and b (C,) that minimise ``inverse · Σ cross-entropy + ½ ‖W‖²``, b unpenalised.

    The problem is solved in the principal axes of the centred features, each scaled by the curvature that the
    objective has along it at zero: the same minimum in a fraction of the iterations, and at most N of D
    dimensions. Each fit starts from the solution of the next smaller ``inverse`` fitted before, from zero if there
    is none, so values are best fitted in ascending order. Such a start is never worse than zero: with a smaller
    penalty, the same W has a lower objective. Within its tolerance, a fit depends on those before it.
    """

    @torch.no_grad()
    def __init__(self, features: Tensor, labels: Tensor, classes: int) -> None:
        """Find the principal axes, once for all strengths of regularisation.

        Args:
            features: Features (N, D).
            labels: Classes (N,), each in [0, classes).
            classes: Number C of classes.
        """
        x = features.detach().double()
        self.mean = x.mean(dim=0)
        _, spread, axes = torch.linalg.svd(x - self.mean, full_matrices=False)
        kept = spread > spread[0] * 1e-10
        self.spread, self.axes = spread[kept], axes[kept]
        self.projected = F.pad((x - self.mean) @ self.axes.T, (0, 1), value=1.0)
        self.target = F.one_hot(labels, classes).double().T.contiguous()
        self._fitted: dict[float, Tensor] = {}

    @torch.no_grad()
    def fit(
        self, inverse: float, *, tolerance: float = 3e-5, max_iterations: int = 1000
    ) -> tuple[Tensor, Tensor]:
        """Return W (C, D) and b (C,) in float64.

        Single precision does most of the way, at half the cost; the end is judged in double, and reached in it if
        need be.

        Args:
            inverse: Inverse regularisation strength, as in scikit-learn.
            tolerance: Largest gradient entry, of the objective over ``inverse · N`` in the scaled axes, at
                which it stops. With a large ``inverse`` and separable shots the minimum itself is far away;
                in ascending order the default ends within 1e-4 nats of it per image.
            max_iterations: Limit of L-BFGS in each precision.
        """
        classes, count = self.target.shape
        ridge = 1 / (inverse * count)
        scale = F.pad((self.spread**2 / (count * classes) + ridge).sqrt(), (0, 1), value=classes**-0.5)
        z, penalty = self.projected / scale, F.pad(ridge / scale[:-1] ** 2, (0, 1))
        before = max((other for other in self._fitted if other <= inverse), default=None)
        at = z.new_zeros(classes, len(scale)) if before is None else self._fitted[before] * scale
        with _threads(z.device, z.numel() * classes), torch.autocast(z.device.type, enabled=False):
            for dtype, enough in (torch.float32, max(tolerance, _SINGLE)), (torch.float64, tolerance):
                objective = objective_of(z.to(dtype), self.target.to(dtype), penalty.to(dtype))
                at = _minimum(objective, at.to(dtype), enough, max_iterations).double()
        self._fitted[inverse] = solution = at / scale
        weight = solution[:, :-1] @ self.axes
        return weight, solution[:, -1] - weight @ self.mean


def _minimum(objective: Objective, start: Tensor, tolerance: float, max_iterations: int) -> Tensor:
    """Descend until no entry of the gradient exceeds the tolerance."""
    at = start.clone()
    lbfgs = torch.optim.LBFGS(
        [at],
        max_iter=max_iterations,
        tolerance_grad=tolerance,
        tolerance_change=0,
        history_size=6,
        line_search_fn="strong_wolfe",
    )

    def evaluate() -> float:
        value, at.grad = objective(at)
        return value

    lbfgs.step(evaluate)
    return at


def objective_of(z: Tensor, target: Tensor, penalty: Tensor) -> Objective:
    """Return mean cross-entropy plus ``½ Σ penalty · at²`` as a function of ``at`` (C, d).

    Args:
        z: Inputs (N, d).
        target: One-hot classes (C, N).
        penalty: Penalty of each column of ``at`` (d,).
    """
    labels, images = target.argmax(dim=0), torch.arange(len(z), device=z.device)

    def evaluate(at: Tensor) -> tuple[float, Tensor]:
        # Classes first: the products of few classes are up to twice as fast, and the softmax is taken in place.
        log_probabilities = (at @ z.T).log_softmax(dim=0)
        likelihood = log_probabilities[labels, images].mean()
        shrunk = penalty * at
        value = float(0.5 * shrunk.flatten().dot(at.flatten()) - likelihood)
        excess = log_probabilities.exp_().sub_(target)
        return value, torch.addmm(shrunk, excess, z, alpha=1 / len(z))

    return evaluate
