"""The final score of a trained method on one set of images, and what is behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from lightning import LightningModule, Trainer
from safetensors.torch import save_file
from torch import Tensor

from mmadapt.data.base import ClassSet, FewShotData
from mmadapt.features.encoder import FeatureEncoder
from mmadapt.files import replacing
from mmadapt.methods.base import Method
from mmadapt.methods.transfer import positions
from mmadapt.metrics import Scorer
from mmadapt.results import (
    DETAILS_FILE,
    DETAILS_SCHEMA,
    PREDICTIONS_FILE,
    WEIGHTS_FILE,
    Classifier,
    Score,
    write_json,
)
from mmadapt.training.feature_data import ResidentData
from mmadapt.training.image_data import ResidentImages


class FinalScore(LightningModule):
    """Scores a method's logits in `Trainer.test`, all of them or those of the classes that occur.

    Attributes:
        method: The trained method.
        labels: Trained classes that occur in the set, in its order; None if its classes are the method's.
    """

    def __init__(self, method: Method, name: str, scorer: Scorer, labels: Sequence[int] | None) -> None:
        """Bind a method and the name of the set under which scores are logged."""
        super().__init__()
        self.method, self.name, self.scorer = method, name, scorer
        self.labels = None if labels is None else torch.tensor(list(labels))

    def cpu(self) -> Self:
        """Stay on the device; see `Method.cpu`."""
        return self

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Score a batch of images or features and labels."""
        logits = self.method(batch[0])
        if self.labels is not None:
            logits = logits[:, self.labels.to(logits.device)]
        self.scorer.update(logits, batch[1])

    def on_test_epoch_end(self) -> None:
        """Log the scores and leave them in `score`."""
        self.score = self.scorer.compute()  # of all processes
        self.log_dict({f"{self.name}/{key}": float(getattr(self.score, key)) for key in METRICS})


METRICS = ("top1", "top1_macro", "top5", "nll", "ece")


class Scoreboard:
    """The scores of all sets of a run.

    Attributes:
        scores: Score by name of the set.
        details: What `Scorer.details` tells, by name of the set.
    """

    def __init__(self, trainer: Trainer, *, confusion: bool, predictions: bool) -> None:
        """Score with a trainer; ``predictions`` keeps those of every image."""
        self.trainer, self.confusion, self.keep = trainer, confusion, predictions
        self.scores: dict[str, Score] = {}
        self.details: dict[str, dict[str, Any]] = {}
        self._predictions: list[dict[str, Any]] = []

    def add(
        self,
        name: str,
        method: Method,
        resident: ResidentData | ResidentImages,
        classifier: Classifier,
        labels: Sequence[int] | None,
    ) -> None:
        """Score the test images of a set, which must be open.

        Args:
            name: Name of the set.
            method: The method with the classifier of the set's classes.
            resident: The set's data.
            classifier: How the classifier was made.
            labels: See `FinalScore`.
        """
        data = resident.data
        scorer = Scorer(len(data.classes), confusion=self.confusion, keep=self.keep)
        final = FinalScore(method, name, scorer, labels).to(resident.device)
        self.trainer.test(final, dataloaders=resident.test_dataloader(), verbose=False)
        self.scores[name] = replace(final.score, data=str(data.name), classifier=classifier)
        self.details[name] = scorer.details(data.classes.names)
        if self.keep:
            self._predictions.append(_table(name, scorer.predictions(), resident.test_names, data.classes))

    def write(self, run_dir: Path) -> None:
        """Write ``details.json`` and, if they were kept, ``predictions.parquet``, sorted by set and image."""
        write_json(run_dir / DETAILS_FILE, {"schema": DETAILS_SCHEMA, "sets": self.details})
        if self.keep:
            _write_parquet(run_dir / PREDICTIONS_FILE, self._predictions)


def classified(
    method: Method, classifier: Classifier, source: FewShotData, target: FewShotData, encoder: FeatureEncoder
) -> tuple[Method, list[int] | None]:
    """Return the method with the classifier of a set, and the logits to look at, None for all."""
    if classifier == "own":
        return method, None
    if classifier == "sliced":
        return method, positions(source.class_keys, target.class_keys)
    make = method.for_classes if classifier == "names" else method.text_side
    return make(target.classes, encoder.text_features(target.classes).to(method.text_features.device)), None


def save_weights(method: Method, run_dir: Path) -> None:
    """Write the adapter's own weights, whole or not at all."""
    state = {key: value.detach().cpu().contiguous() for key, value in method.state_dict().items()}
    temporary = run_dir / f".{WEIGHTS_FILE}.tmp"
    save_file(state, temporary, {"method": type(method).__name__})
    temporary.replace(run_dir / WEIGHTS_FILE)


def _table(name: str, predictions: Tensor, images: Sequence[str], classes: ClassSet) -> dict[str, Any]:
    labels, predicted = (predictions[:, i].long().tolist() for i in (0, 1))
    return {
        "set": [name] * len(labels),
        "image": list(images),
        "label": labels,
        "class": [classes.names[i] for i in labels],
        "predicted": predicted,
        "predicted_class": [classes.names[i] for i in predicted],
        "confidence": predictions[:, 2].tolist(),
        "correct": [a == b for a, b in zip(labels, predicted, strict=True)],
    }


def _write_parquet(path: Path, tables: Sequence[Mapping[str, Any]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    whole = pa.concat_tables([pa.table(dict(table)).sort_by("image") for table in tables])
    with replacing(path) as temporary:
        parquet.write_table(whole, temporary)
