"""All metrics of a test set, 50,000 images x 1000 classes, on top of the product that makes the logits.

Run ``OMP_NUM_THREADS=1 python -m benchmarks.evaluation`` from the top of the checkout. Features of width 512; top-1,
its mean over classes, top-5, negative log-likelihood and ECE, batch by batch as an experiment scores. References: the
product alone, which no evaluation can beat; a plain evaluator in NumPy that holds all logits and passes over them
twice; one that collects lists image by image, as the evaluator of the prompt-learning repositories does, with the
metrics it lacks added in the same manner. The last two are given ready logits, as is ours beside them. All scores are
equal to 1e-6 or there is no ratio.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import Figure, Outcome, compare, finish, options, peak_mib, peak_of
from mmadapt.metrics import Scorer
from mmadapt.training.feature_data import EVAL_BATCH

DIM, BINS, LIMIT = 512, 15, 1e-6
MATMUL_GOAL, PLAIN_GOAL, LIST_GOAL = 1 / 1.5, 1.0, 20.0
Scores = tuple[float, ...]


class Problem:
    """Features, class vectors and labels such that about half of the images are right."""

    def __init__(self, images: int, classes: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.texts = torch.randn(classes, DIM, generator=generator) / DIM**0.5
        self.labels = torch.randint(classes, (images,), generator=generator)
        noise = torch.randn(images, DIM, generator=generator)
        self.features = 2.5 * self.texts[self.labels] + noise
        self.classes = classes

    def product(self) -> Tensor:
        """Return the logits of the last batch; those of all others are made and dropped."""
        for features in self.features.split(EVAL_BATCH):
            logits = features @ self.texts.T
        return logits

    def ours(self, logits: Tensor | None = None) -> Scores:
        """Return the scores, from features or from ready logits."""
        scorer = Scorer(self.classes)
        for start in range(0, len(self.labels), EVAL_BATCH):
            rows = slice(start, start + EVAL_BATCH)
            batch = self.features[rows] @ self.texts.T if logits is None else logits[rows]
            scorer.update(batch, self.labels[rows])
        found = scorer.compute()
        return found.top1, found.top1_macro, found.top5, found.nll, found.ece

    def plain(self, logits: Tensor) -> Scores:
        """Return the scores by two passes over all logits."""
        values, labels = logits.numpy(), self.labels.numpy()
        rows = np.arange(len(labels))
        shifted = values - values.max(axis=1, keepdims=True)
        partition = np.exp(shifted).sum(axis=1).astype(np.float64)
        right = values.argmax(axis=1) == labels
        five = (values > values[rows, labels][:, None]).sum(axis=1) < 5
        nll = (np.log(partition) - shifted[rows, labels]).mean()
        each = [right[labels == label].mean() for label in np.unique(labels)]
        return (
            float(right.mean()),
            float(np.mean(each)),
            float(five.mean()),
            float(nll),
            ece(1 / partition, right),
        )

    def listed(self, logits: Tensor) -> Scores:
        """Return the scores by lists that grow image by image."""
        right, five, losses, confidences = [], [], [], []
        per_class = defaultdict(list)
        for start in range(0, len(self.labels), 100):
            batch, labels = logits[start : start + 100], self.labels[start : start + 100]
            probabilities = batch.softmax(dim=1)
            predicted, best = batch.max(dim=1)[1], batch.topk(5, dim=1)[1]
            for i, label in enumerate(labels):
                number = label.item()
                hit = int(predicted[i].item() == number)
                right.append(hit)
                per_class[number].append(hit)
                five.append(number in best[i].tolist())
                losses.append(-probabilities[i, number].log().item())
                confidences.append(probabilities[i, predicted[i]].item())
        macro = sum(sum(hits) / len(hits) for hits in per_class.values()) / len(per_class)
        count = len(right)
        calibration = ece(np.array(confidences), np.array(right, dtype=bool))
        return sum(right) / count, macro, sum(five) / count, sum(losses) / count, calibration


def ece(confidence: np.ndarray, right: np.ndarray) -> float:
    """Return the expected calibration error over equal bins."""
    place = np.minimum((confidence.astype(np.float32) * np.float32(BINS)).astype(int), BINS - 1)
    gaps = [abs(confidence[place == b].sum() - right[place == b].sum()) for b in range(BINS)]
    return float(sum(gaps) / len(right))


def furthest(some: Scores, others: Scores) -> float:
    """Return the largest difference of a score."""
    return max(abs(a - b) for a, b in zip(some, others, strict=True))


def main(argv: Sequence[str] | None = None) -> list[Outcome | Figure]:
    torch.set_num_threads(1)
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["--peak"]:
        problem = Problem(50000, 1000)
        print(peak_mib(problem.ours))
        return []
    chosen = options(__doc__, argv, images=50000, classes=1000)
    images, classes = (300, 20) if chosen.smoke else (chosen.images, chosen.classes)
    problem, size = Problem(images, classes), f"{images} x {classes}"
    logits = problem.features @ problem.texts.T
    expected = problem.plain(logits)
    outcomes: list[Outcome | Figure] = [
        compare(
            f"product alone / product and metrics, {size}", problem.product, problem.ours,
            lambda _, scores: furthest(scores, expected), limit=LIMIT, goal=MATMUL_GOAL, pairs=chosen.pairs,
        )
    ]  # fmt: skip
    for name, reference, goal in (
        ("two passes in NumPy", problem.plain, PLAIN_GOAL), ("lists", problem.listed, LIST_GOAL),
    ):  # fmt: skip
        outcomes.append(
            compare(
                f"{name} / metrics of ready logits, {size}", lambda f=reference: f(logits),
                lambda: problem.ours(logits), furthest, limit=LIMIT, goal=goal, pairs=chosen.pairs,
            )
        )  # fmt: skip
    if not chosen.smoke:
        whole = 50000 * 1000 * 4 / 2**20
        peak = peak_of("benchmarks.evaluation", "--peak")
        outcomes.append(
            Figure("peak memory of product and metrics, 50000 x 1000", peak, whole, "MiB", [peak])
        )
        print(f"{outcomes[-1]}\n  the goal is the size of all logits at once", flush=True)
    finish("evaluation", outcomes, chosen.smoke)
    return outcomes


if __name__ == "__main__":
    main()
