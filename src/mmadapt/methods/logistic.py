"""L2-regularised multinomial logistic regression in float64, by preconditioned L-BFGS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

_SMALL = 10**8
"""Multiply-adds of an evaluation below which a second thread costs more than it brings."""


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
    dimensions. Each fit starts from zero, so it does not depend on what was fitted before.
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
        self.projected = (x - self.mean) @ self.axes.T
        self.target = F.one_hot(labels, classes).double()

    @torch.no_grad()
    def fit(
        self, inverse: float, *, tolerance: float = 1e-4, max_iterations: int = 1000
    ) -> tuple[Tensor, Tensor]:
        """Return W (C, D) and b (C,) in float64.

        Args:
            inverse: Inverse regularisation strength, as in scikit-learn.
            tolerance: Largest gradient entry, of the objective over ``inverse · N`` in the scaled axes, at
                which it stops. With a large ``inverse`` and separable shots the minimum itself is far away;
                the default ends within 1e-3 nats of it, as early as scikit-learn's default does.
            max_iterations: Limit of L-BFGS.
        """
        count, classes = self.target.shape
        ridge, constant = 1 / (inverse * count), classes**0.5
        curvature = (self.spread**2 / (count * classes) + ridge).sqrt()
        z = F.pad(self.projected / curvature, (0, 1), value=constant)
        penalty = F.pad(ridge / curvature**2, (0, 1))
        solution = z.new_zeros(classes, z.shape[1]).requires_grad_()
        optimizer = torch.optim.LBFGS(
            [solution], max_iter=max_iterations, max_eval=2 * max_iterations, tolerance_grad=tolerance,
            tolerance_change=1e-16, history_size=20, line_search_fn="strong_wolfe",
        )  # fmt: skip

        def objective() -> float:
            at = solution.detach()
            log_probabilities = (z @ at.T).log_softmax(dim=1)
            solution.grad = (log_probabilities.exp() - self.target).T @ z / count + penalty * at
            return float(0.5 * (penalty * at**2).sum() - (log_probabilities * self.target).sum() / count)

        with _threads(z.device, z.numel() * classes):
            optimizer.step(objective)
        scaled = solution.detach()
        weight = scaled[:, :-1] / curvature @ self.axes
        return weight, constant * scaled[:, -1] - weight @ self.mean
