"""The whole path of the linear probe against one scikit-learn fit per value of C.

Run ``OMP_NUM_THREADS=1 python -m benchmarks.linear_probe_path`` from the top of the checkout. Both sides fit logistic
regression on the same features for the same values of C: those that the product's search on val tries, in its order,
so that each of ours starts from an earlier one. A ratio counts only if no objective of ours, per image and in nats,
is above scikit-learn's by more than 1e-4; lower counts as equal, since with separable shots and weak regularisation
neither side walks to the far minimum.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import Outcome, compare, finish, options
from mmadapt.methods.linear_probe import choose_exponent
from mmadapt.methods.parts.logistic import LogisticRegression

LIMIT, GOAL = 1e-4, 2.5
COARSE = (1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6)
Solution = tuple[Tensor, Tensor]


class Problem:
    """Features of C classes with the anisotropy of CLIP's: a common mean, few strong directions."""

    def __init__(self, dim: int, classes: int, shots: int) -> None:
        generator = torch.Generator().manual_seed(classes)
        spectrum = torch.arange(1, dim + 1).float() ** -0.5
        centres = torch.randn(classes, dim, generator=generator) * spectrum

        def draw(each: int) -> tuple[Tensor, Tensor]:
            labels = torch.arange(classes).repeat_interleave(each)
            noise = torch.randn(len(labels), dim, generator=generator) * spectrum
            return 0.3 + 0.5 * centres[labels] + noise, labels

        self.classes = classes
        (self.features, self.labels), (self.val, self.val_labels) = draw(shots), draw(4)
        self.values = self.tried()

    def tried(self) -> list[float]:
        """Return the values of C that the product's search fits, in its order."""
        problem, right = LogisticRegression(self.features, self.labels, self.classes), dict[float, int]()

        def correct(exponent: float) -> int:
            inverse = 10.0**exponent
            if inverse not in right:
                weight, bias = problem.fit(inverse)
                predicted = (self.val.double() @ weight.T + bias).argmax(dim=1)
                right[inverse] = int((predicted == self.val_labels).sum())
            return right[inverse]

        choose_exponent(correct, [math.log10(c) for c in COARSE], 8)
        return list(right)

    def ours(self) -> list[float]:
        """Return the objectives after fitting each value."""
        problem = LogisticRegression(self.features, self.labels, self.classes)
        return [self.objective(inverse, *problem.fit(inverse)) for inverse in self.values]

    def sklearn(self) -> list[float]:
        """Return the objectives after one plain fit each, as in CoOp's linear probe."""
        from sklearn.linear_model import LogisticRegression as Plain

        found, features, labels = [], self.features.numpy(), self.labels.numpy()
        for inverse in self.values:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of runs that stop at the limit of iterations
                fit = Plain(C=inverse, max_iter=1000).fit(features, labels)
            weight, bias = (
                torch.from_numpy(np.asarray(part, dtype=float)) for part in (fit.coef_, fit.intercept_)
            )
            found.append(self.objective(inverse, weight, bias))
        return found

    def objective(self, inverse: float, weight: Tensor, bias: Tensor) -> float:
        """Return ``(C Σ cross-entropy + ½ ‖W‖²) / (C N)`` in nats."""
        loss = F.cross_entropy(self.features.double() @ weight.T + bias, self.labels)
        return float(loss + 0.5 * weight.square().sum() / (inverse * len(self.labels)))


def main(argv: Sequence[str] | None = None) -> list[Outcome]:
    chosen = options(__doc__, argv)
    torch.set_num_threads(1)
    sizes = {"C=20": (512, 20, 16), "C=100": (512, 100, 4)}
    if chosen.smoke:
        sizes = {"smoke": (16, 5, 4)}
    outcomes, values = [], {}
    for name, numbers in sizes.items():
        problem = Problem(*numbers)
        values[name] = problem.values
        dim, classes, shots = numbers
        outcomes.append(
            compare(
                f"path of {len(problem.values)} values, D={dim} C={classes}, {shots} shots",
                problem.sklearn, problem.ours,
                lambda plain, own: max(max(b - a for a, b in zip(plain, own, strict=True)), 0.0),
                limit=LIMIT, goal=GOAL, pairs=chosen.pairs,
            )
        )  # fmt: skip
    finish("linear_probe_path", outcomes, chosen.smoke, values=values)
    return outcomes


if __name__ == "__main__":
    main()
