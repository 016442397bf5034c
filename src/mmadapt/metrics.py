"""The metrics of the few-shot papers, and those they leave out, by torchmetrics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import CatMetric, SumMetric
from torchmetrics.classification import (
    BinaryCalibrationError,
    MulticlassConfusionMatrix,
    MulticlassStatScores,
)

from mmadapt.errors import UserError
from mmadapt.results import Score

ECE_BINS = 15
TILE = 1 << 18
"""Logits worked on at once on a CPU (1 MB), so that the passes over them stay in its cache."""


class Scorer(nn.Module):
    """Counts over all scored images; counts, not means of batch means, are what ranks add up.

    The calibration error of a choice among C classes looks only at the confidence of the best one and at
    whether it is right, so the binary metric is given just these two; no second (B, C) tensor is made.
    """

    def __init__(self, classes: int, *, confusion: bool = False, keep: bool = False) -> None:
        """Score a choice among ``classes``.

        Args:
            classes: Number of classes C.
            confusion: Count also the confusion matrix (C, C).
            keep: Remember what was predicted for each image; see `predictions`.
        """
        super().__init__()
        self.classes = classes
        self.counts = MulticlassStatScores(classes, average=None, validate_args=False)
        self.among_five = SumMetric().set_dtype(torch.float64)
        self.nll = SumMetric().set_dtype(torch.float64)
        self.calibration = BinaryCalibrationError(n_bins=ECE_BINS, validate_args=False)
        self.confusion = MulticlassConfusionMatrix(classes, validate_args=False) if confusion else None
        self.kept = CatMetric() if keep else None

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (B, C), labels (B,).

        Raises:
            UserError: If a logit is not finite; an accuracy computed from it would look like a number.
        """
        if not len(labels):
            return
        rows = max(1, TILE // self.classes) if logits.device.type == "cpu" else len(labels)
        tiles = zip(logits.detach().split(rows), labels.split(rows), strict=True)
        parts = [_rows(tile.float(), wanted) for tile, wanted in tiles]
        # The metrics are told once: a call of each costs as much as the passes over a tile.
        predicted, confidence, loss, rank = (torch.cat(column) for column in zip(*parts, strict=True))
        if not loss.isfinite().all():
            raise UserError(
                "Some logits are not finite, so there is nothing to score. Lower the learning rate or use fp32."
            )
        right = predicted == labels
        self.counts.update(predicted, labels)
        # A true class whose logit equals others' ranks behind them, unless it is the predicted one.
        self.among_five.update((right | (rank <= 5)).sum())
        self.nll.update(loss.sum(dtype=torch.float64))
        self.calibration.update(confidence, right.int())
        if self.confusion is not None:
            self.confusion.update(predicted, labels)
        if self.kept is not None:
            self.kept.update(torch.stack([labels.double(), predicted.double(), confidence.double()], dim=1))

    def compute(self) -> Score:
        """Return the scores of everything added since the last reset; classes without images do not count."""
        true_positive, _, _, _, support = self.counts.compute().T
        correct, total = int(true_positive.sum()), int(support.sum())
        present = support > 0
        return Score(
            top1=correct / total,
            top1_macro=float((true_positive[present].double() / support[present]).mean()),
            top5=float(self.among_five.compute()) / total,
            nll=float(self.nll.compute()) / total,
            ece=float(self.calibration.compute()),
            correct=correct,
            total=total,
            classes=self.classes,
        )

    def details(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Return what is behind the scores: counts per class, the reliability bins, the confusion matrix."""
        true_positive, _, _, _, support = self.counts.compute().T
        found: dict[str, Any] = {
            "classes": list(names),
            "correct": true_positive.tolist(),
            "total": support.tolist(),
            "reliability": self._reliability(),
        }
        if self.confusion is not None:
            found["confusion"] = self.confusion.compute().tolist()
        return found

    def _reliability(self) -> dict[str, list[float]]:
        """Return number, mean confidence and accuracy of each of the 15 bins; 0 where a bin is empty."""
        with self.calibration.sync_context():
            confidence = torch.cat([c.flatten() for c in _listed(self.calibration.confidences)]).double()
            right = torch.cat([r.flatten() for r in _listed(self.calibration.accuracies)]).double()
        # The bins of torchmetrics: left-closed, the last one closed on both sides.
        edges = torch.linspace(0, 1, ECE_BINS + 1, device=confidence.device, dtype=torch.float32)
        place = (torch.bucketize(confidence.float(), edges, right=True) - 1).clamp(0, ECE_BINS - 1)
        count = torch.bincount(place, minlength=ECE_BINS).double()
        least = count.clamp(min=1)
        sums = [torch.bincount(place, weights=w, minlength=ECE_BINS) / least for w in (confidence, right)]
        return {"count": count.long().tolist(), "confidence": sums[0].tolist(), "accuracy": sums[1].tolist()}

    def predictions(self) -> Tensor:
        """Return label, predicted class and its probability for each image, (N, 3), in the order scored."""
        if self.kept is None:
            raise ValueError("Scorer(keep=True) remembers predictions, this one does not.")
        found: Tensor = self.kept.compute().reshape(-1, 3)
        return found

    def reset(self) -> None:
        """Forget everything."""
        for metric in self.children():
            metric.reset()  # type: ignore[operator]


def _rows(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return, of each row (B,): the predicted class, its probability, the loss, the rank of the true class.

    Four passes and one buffer; the loss of a row with a NaN or +inf is not finite.
    """
    best, predicted = logits.max(dim=1)
    true = logits.gather(1, labels[:, None])
    buffer = torch.ge(logits, true, out=torch.empty_like(logits))  # counted as floats: twice as fast as bools
    rank = buffer.sum(dim=1)
    partition = torch.sub(logits, best[:, None], out=buffer).exp_().sum(dim=1)
    return predicted, 1 / partition, partition.log() + (best - true[:, 0]), rank


def _listed(state: Any) -> list[Tensor]:
    """Return a list state, which torchmetrics keeps as one tensor after a sync."""
    return [state] if isinstance(state, Tensor) else list(state)
