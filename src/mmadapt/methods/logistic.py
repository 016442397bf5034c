"""L2-regularised multinomial logistic regression in float64, by preconditioned L-BFGS."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


@torch.no_grad()
def fit_logistic(
    features: Tensor,
    labels: Tensor,
    classes: int,
    inverse: float,
    *,
    tolerance: float = 1e-4,
    max_iterations: int = 1000,
) -> tuple[Tensor, Tensor]:
    """Return W (C, D) and b (C,) that minimise ``inverse · Σ cross-entropy + ½ ‖W‖²``, b unpenalised.

    The problem is solved in the principal axes of the centred features, each scaled by the curvature that the
    objective has along it at zero: the same minimum in a fraction of the iterations, and at most N of D
    dimensions. It starts from zero, so the result does not depend on what was fitted before.

    Args:
        features: Features (N, D).
        labels: Classes (N,), each in [0, classes).
        classes: Number C of classes.
        inverse: Inverse regularisation strength, as in scikit-learn.
        tolerance: Largest gradient entry, of the mean objective in the scaled axes, at which it stops.
            scikit-learn's default number, in coordinates where it is stricter.
        max_iterations: Limit of L-BFGS.
    """
    x, count = features.detach().double(), len(labels)
    mean = x.mean(dim=0)
    _, spread, axes = torch.linalg.svd(x - mean, full_matrices=False)
    kept = spread > spread[0] * 1e-10
    spread, axes = spread[kept], axes[kept]
    ridge = 1 / (inverse * count)
    curvature = (spread**2 / (count * classes) + ridge).sqrt()
    constant = classes**0.5
    z = F.pad((x - mean) @ axes.T / curvature, (0, 1), value=constant)
    penalty = F.pad(ridge / curvature**2, (0, 1))
    target = F.one_hot(labels, classes).double()
    solution = torch.zeros(classes, z.shape[1], dtype=torch.float64, device=x.device).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [solution], max_iter=max_iterations, max_eval=2 * max_iterations, tolerance_grad=tolerance,
        tolerance_change=1e-12, history_size=20, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def objective() -> float:
        at = solution.detach()
        log_probabilities = (z @ at.T).log_softmax(dim=1)
        solution.grad = (log_probabilities.exp() - target).T @ z / count + penalty * at
        return float(0.5 * (penalty * at**2).sum() - (log_probabilities * target).sum() / count)

    optimizer.step(objective)
    solution = solution.detach()
    weight = solution[:, :-1] / curvature @ axes
    return weight, constant * solution[:, -1] - weight @ mean
