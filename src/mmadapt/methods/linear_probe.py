"""Linear probe (arXiv 2103.00020, appendix A.3): L2-regularised logistic regression on frozen features."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Unpack

import torch
from torch import Tensor, nn

from mmadapt.clip import ClipBackbone
from mmadapt.data.base import ClassSet
from mmadapt.errors import UserError
from mmadapt.features.encoder import FeatureSet
from mmadapt.methods.base import Method
from mmadapt.methods.parts.logistic import LogisticRegression
from mmadapt.methods.parts.recipe import Recipe
from mmadapt.methods.transfer import Transfer


class LinearProbe(Method):
    """``logits = f · Wᵀ + b`` with ``C · Σ cross-entropy + ½ ‖W‖²`` minimised by L-BFGS, the bias unpenalised.

    As in CoOp's few-shot baseline: raw features of the test-time view, no CLIP text. C is chosen on val: seven
    powers of ten first, then halvings of the bracket around the best; shots and val fix the order in which values
    are fitted, each from the next smaller one, and so the result. Deviation: CoOp reports the last C tried,
    here it is the best one; the CLIP paper takes features before the projection.

    Attributes:
        weight: W (C, D).
        bias: b (C,).
    """

    transfer: Transfer = "none"

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
            raise UserError(
                f"method.coarse={list(coarse)} must hold positive values, halvings={halvings} be 0 or more."
            )
        self.coarse, self.halvings, self.max_iterations = tuple(coarse), halvings, max_iterations
        self.weight = nn.Parameter(torch.zeros(len(classes), clip.dim), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(len(classes)), requires_grad=False)

    def logits(self, image_features: Tensor) -> Tensor:
        """Return logits (B, C)."""
        return image_features @ self.weight.T + self.bias

    def adapt(self, support: FeatureSet, val: FeatureSet) -> None:
        """Fit on the shots for each C and keep the best on val; of equals the strongest regularisation."""
        features = support.image_features.mean(dim=0)
        problem = LogisticRegression(features, support.labels, len(self.classes))
        tried: dict[float, tuple[int, tuple[Tensor, Tensor]]] = {}

        def correct(exponent: float) -> int:
            inverse = 10.0**exponent
            if inverse not in tried:
                solution = problem.fit(inverse, max_iterations=self.max_iterations)
                self._load(solution)
                right = self.logits(val.image_features[0]).argmax(dim=1) == val.labels
                tried[inverse] = int(right.sum()), solution
            return tried[inverse][0]

        choose_exponent(correct, [math.log10(c) for c in self.coarse], self.halvings)
        best = max(tried, key=lambda inverse: (tried[inverse][0], -inverse))
        self._load(tried[best][1])
        self.tuned = {"C": best}

    def _load(self, solution: tuple[Tensor, Tensor]) -> None:
        self.weight.copy_(solution[0])
        self.bias.copy_(solution[1])


def choose_exponent(score: Callable[[float], int], coarse: list[float], halvings: int) -> float:
    """Return log10 C by CoOp's search: the coarse peak, then the better end of an ever narrower bracket.

    Coarse values are scored from the strongest regularisation on, so that each fit can start from the one before;
    of equal peaks the first in the given order counts.
    """
    scores = {exponent: score(exponent) for exponent in sorted(coarse)}
    peak = max(coarse, key=scores.__getitem__)
    low, high = peak - 1.0, peak + 1.0
    for _ in range(halvings):
        if score(low) > score(high):
            high = (low + high) / 2
        else:
            low = (low + high) / 2
    return low if score(low) > score(high) else high
