"""The metrics of the few-shot papers, and those they leave out, by torchmetrics."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import SumMetric
from torchmetrics.classification import MulticlassCalibrationError, MulticlassStatScores

from mmadapt.errors import UserError
from mmadapt.results import Score

ECE_BINS = 15


class Scorer(nn.Module):
    """Counts over all scored images; counts, not means of batch means, are what ranks add up."""

    def __init__(self, classes: int) -> None:
        """Score a choice among ``classes``."""
        super().__init__()
        self.classes = classes
        self.counts = MulticlassStatScores(classes, average=None, validate_args=False)
        self.nll = SumMetric()
        self.calibration = MulticlassCalibrationError(classes, n_bins=ECE_BINS, validate_args=False)

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (B, C), labels (B,).

        Raises:
            UserError: If a logit is not finite; an accuracy computed from it would look like a number.
        """
        if not logits.isfinite().all():
            raise UserError(
                "Some logits are not finite, so there is nothing to score. Lower the learning rate or use fp32."
            )
        logits = logits.float()
        self.counts.update(logits, labels)
        self.nll.update(F.cross_entropy(logits, labels, reduction="sum"))
        self.calibration.update(logits.softmax(dim=-1), labels)

    def compute(self) -> Score:
        """Return the scores of everything added since the last reset; classes without images do not count."""
        true_positive, _, _, _, support = self.counts.compute().T
        correct, total = int(true_positive.sum()), int(support.sum())
        present = support > 0
        return Score(
            top1=correct / total,
            top1_macro=float((true_positive[present].double() / support[present]).mean()),
            nll=float(self.nll.compute()) / total,
            ece=float(self.calibration.compute()),
            correct=correct,
            total=total,
            classes=self.classes,
        )

    def reset(self) -> None:
        """Forget everything."""
        for metric in (self.counts, self.nll, self.calibration):
            metric.reset()
