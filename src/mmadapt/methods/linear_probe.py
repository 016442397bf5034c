"""Linear probe (arXiv 2103.00020, appendix A.3): L2-regularised logistic regression on frozen features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Unpack

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.nn import functional as F

from mmadapt.clip import ClipBackbone
from mmadapt.data.base import ClassSet
from mmadapt.errors import UserError
from mmadapt.features import FeatureSet
from mmadapt.methods.base import Method
from mmadapt.methods.recipe import Recipe


class LinearProbe(Method):
    """``logits = f · Wᵀ + b`` with ``C · Σ cross-entropy + ½ ‖W‖²`` minimised by L-BFGS, the bias unpenalised.

    As in CoOp's few-shot baseline: raw features of the test-time view, no CLIP text. C is chosen on val: seven
    powers of ten first, then halvings of the bracket around the best. Deviation: CoOp reports the last C tried,
    here it is the best one; the CLIP paper takes features before the projection.

    Attributes:
        weight: W (C, D).
        bias: b (C,).
    """

    def __init__(
        self,
        clip: ClipBackbone,
        classes: ClassSet,
        *,
        coarse: tuple[float, ...] = (1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6),
        halvings: int = 8,
        max_iterations: int = 1000,
        text_features: Tensor | None = None,
        **recipe: Unpack[Recipe],
    ) -> None:
        """Prepare an all-zero head; `adapt` fits it.

        Args:
            clip: The frozen backbone.
            classes: Names of the C classes.
            coarse: Values of C tried first, inverse regularisation as in scikit-learn.
            halvings: Steps of the binary search on log C around the best of them.
            max_iterations: Limit of L-BFGS per value.
            text_features: Not used; part of every method's signature.
            recipe: See `Recipe`.

        Raises:
            UserError: If there is no positive C to try.
        """
        super().__init__(clip, classes, text_features=text_features, **recipe)
        if not coarse or min(coarse) <= 0 or halvings < 0:
            raise UserError(f"method.coarse={list(coarse)} must hold positive values, halvings={halvings} be 0 or more.")
        self.coarse, self.halvings, self.max_iterations = tuple(coarse), halvings, max_iterations
        self.weight = nn.Parameter(torch.zeros(len(classes), clip.dim), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(len(classes)), requires_grad=False)

    def logits(self, image_features: Tensor) -> Tensor:
        """Return logits (B, C)."""
        return image_features @ self.weight.T + self.bias

    def adapt(self, support: FeatureSet, val: FeatureSet) -> None:
        """Fit on the shots for each C and keep the best on val; of equals the strongest regularisation."""
        features, labels = support.image_features.mean(dim=0), support.labels
        tried: dict[float, tuple[int, np.ndarray]] = {}
        start: np.ndarray | None = None

        def correct(exponent: float) -> int:
            nonlocal start
            inverse = 10.0**exponent
            if inverse not in tried:
                start = fit_logistic(features, labels, len(self.classes), inverse, start, self.max_iterations)
                self._load(start)
                tried[inverse] = int((self.logits(val.image_features[0]).argmax(dim=1) == val.labels).sum()), start
            return tried[inverse][0]

        choose_exponent(correct, [float(np.log10(c)) for c in self.coarse], self.halvings)
        best = max(tried, key=lambda inverse: (tried[inverse][0], -inverse))
        self._load(tried[best][1])
        self.tuned = {"C": best}

    def _load(self, flat: np.ndarray) -> None:
        solution = torch.from_numpy(flat).view(len(self.classes), -1).to(self.weight)
        self.weight.copy_(solution[:, :-1])
        self.bias.copy_(solution[:, -1])


def choose_exponent(score: Callable[[float], int], coarse: list[float], halvings: int) -> float:
    """Return log10 C by CoOp's search: the coarse peak, then the better end of an ever narrower bracket."""
    peak = max(coarse, key=score)
    low, high = peak - 1.0, peak + 1.0
    for _ in range(halvings):
        if score(low) > score(high):
            high = (low + high) / 2
        else:
            low = (low + high) / 2
    return low if score(low) > score(high) else high


def fit_logistic(
    features: Tensor, labels: Tensor, classes: int, inverse: float, start: np.ndarray | None, max_iterations: int = 1000
) -> np.ndarray:
    """Return the flat minimiser (C · (D + 1),), rows [w, b], of ``inverse · Σ CE + ½ ‖W‖²``, in float64.

    Args:
        features: Raw features (N, D).
        labels: Classes (N,).
        classes: Number C of classes.
        inverse: Inverse regularisation strength.
        start: Solution to start from (the problem is convex, so it only saves time); None is zero.
        max_iterations: Limit of L-BFGS.
    """
    x = F.pad(features.detach().double().cpu(), (0, 1), value=1.0)
    target = F.one_hot(labels.cpu(), classes).double()

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weight = torch.from_numpy(flat).view(classes, -1)
        logits = x @ weight.T
        log_sum = logits.logsumexp(dim=1, keepdim=True)
        penalised = weight.clone()
        penalised[:, -1] = 0
        # Divided by the number of images: L-BFGS stops by absolute gradient size.
        norm = inverse * len(x)
        value = (inverse * (log_sum.squeeze(1) - (logits * target).sum(dim=1)).sum() + 0.5 * (penalised**2).sum()) / norm
        gradient = (inverse * ((logits - log_sum).exp() - target).T @ x + penalised) / norm
        return float(value), gradient.reshape(-1).numpy()

    first = np.zeros(classes * x.shape[1]) if start is None else start
    options = {"maxiter": max_iterations, "gtol": 1e-7, "ftol": 64 * np.finfo(float).eps, "maxcor": 20}
    solution: np.ndarray = minimize(objective, first, jac=True, method="L-BFGS-B", options=options).x
    return solution
