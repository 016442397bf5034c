"""What W&B shows of a finished run on request: confusion matrix, reliability diagram, tables."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import wandb

from mmadapt.results import Result

log = logging.getLogger(__name__)

MAX_CELLS = 10_000
"""Cells of a confusion matrix that W&B draws: all up to 100 classes, else the fullest ones."""


def build_objects(wanted: Mapping[str, bool], result: Result, details: Mapping[str, Any]) -> dict[str, Any]:
    """Return the W&B objects that the options of ``logger=wandb`` ask for.

    Args:
        wanted: Which of ``table``, ``confusion_matrix`` and ``reliability`` are.
        result: The finished run.
        details: Content of ``details.json`` by scored set.
    """
    objects: dict[str, Any] = {}
    if wanted.get("table"):
        objects["results"] = score_table(result)
    for name in result.scores:
        found = details.get(name, {})
        if wanted.get("table") and _has(found, ("classes", "correct", "total"), "table of classes", name):
            objects[f"{name}/classes"] = class_table(found)
        if wanted.get("confusion_matrix") and _has(found, ("classes", "confusion"), "confusion matrix", name):
            title = f"Confusion on {name}"
            objects[f"{name}/confusion_matrix"] = confusion_matrix(
                found["classes"], found["confusion"], title
            )
        if wanted.get("reliability") and _has(found, ("reliability",), "reliability diagram", name):
            objects[f"{name}/reliability"] = reliability_diagram(
                found["reliability"], f"Reliability on {name}"
            )
    return objects


def _has(found: Mapping[str, Any], needed: Sequence[str], what: str, name: str) -> bool:
    missing = [key for key in needed if not found.get(key)]
    if missing:
        log.warning(
            "W&B shows no %s of %r: details.json of the run lacks %s.",
            what,
            name,
            " and ".join(missing),
        )
    return not missing


def score_table(result: Result) -> wandb.Table:
    """Return the scores: one row per scored set, accuracies and calibration error in percent."""
    columns: list[str | int] = ["set", "top-1 %", "macro top-1 %", "NLL", "ECE %", "images", "classes"]
    rows: list[Iterable[Any]] = [
        [name, 100 * s.top1, 100 * s.top1_macro, s.nll, 100 * s.ece, s.total, s.classes]
        for name, s in result.scores.items()
    ]
    return wandb.Table(columns=columns, data=rows)


def class_table(details: Mapping[str, Any]) -> wandb.Table:
    """Return one row per class; the accuracy of a class without images is empty."""
    rows: list[Iterable[Any]] = [
        [name, correct, total, 100 * correct / total if total else None]
        for name, correct, total in zip(details["classes"], details["correct"], details["total"], strict=True)
    ]
    return wandb.Table(columns=["class", "correct", "images", "accuracy %"], data=rows)


def confusion_matrix(classes: Sequence[str], counts: Sequence[Sequence[int]], title: str) -> Any:
    """Return W&B's confusion matrix from counts (true class, predicted class).

    `wandb.plot.confusion_matrix` wants every single prediction; the chart itself needs the counts alone. With
    more than `MAX_CELLS` cells only those with the highest counts are kept, which the title says.
    """
    cells: list[Any] = [
        [true, predicted, int(count)]
        for true, row in zip(classes, counts, strict=True)
        for predicted, count in zip(classes, row, strict=True)
    ]
    if len(cells) > MAX_CELLS:
        filled = sorted((cell for cell in cells if cell[2]), key=lambda cell: -cell[2])
        cells = filled[:MAX_CELLS]
        title += f" ({len(cells)} of {len(filled)} non-zero cells)"
    return wandb.plot_table(
        vega_spec_name="wandb/confusion_matrix/v1",
        data_table=wandb.Table(columns=["Actual", "Predicted", "nPredictions"], data=cells),
        fields={"Actual": "Actual", "Predicted": "Predicted", "nPredictions": "nPredictions"},
        string_fields={"title": title},
    )


def reliability_diagram(bins: Mapping[str, Sequence[float]], title: str) -> Any:
    """Return accuracy against mean confidence of each bin that holds images, beside the diagonal."""
    filled = [
        (confidence, accuracy)
        for count, confidence, accuracy in zip(
            bins["count"], bins["confidence"], bins["accuracy"], strict=True
        )
        if count
    ]
    confidences, accuracies = zip(*filled, strict=True)
    return wandb.plot.line_series(
        xs=[list(confidences), [0.0, 1.0]],
        ys=[list(accuracies), [0.0, 1.0]],
        keys=["accuracy", "calibrated"],
        title=title,
        xname="confidence",
    )
