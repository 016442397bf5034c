"""What `details.json` adds to a result: counts per class and reliability bins."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmadapt.collect.details import read_details

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True)
class Bins:
    """Reliability bins: number of images, mean confidence and accuracy (0 where a bin is empty)."""

    count: tuple[int, ...]
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]


@dataclass(frozen=True)
class SetDetails:
    """Counts of one scored set.

    Attributes:
        classes: Number of right and of all images by class; classes without images are left out.
        bins: Reliability bins, or None.
    """

    classes: dict[str, tuple[int, int]]
    bins: Bins | None


def read(folder: Path) -> dict[str, SetDetails]:
    """Return the details of a run by scored set, empty if there is no file.

    Raises:
        UserError: If the file is there but is none of this layout.
    """
    return read_details(folder, _parse)


def pool(parts: Sequence[SetDetails]) -> SetDetails:
    """Add up the counts of several runs on the same images; bins are averaged by their counts."""
    classes: dict[str, tuple[int, int]] = {}
    for part in parts:
        for name, (correct, total) in part.classes.items():
            before = classes.get(name, (0, 0))
            classes[name] = before[0] + correct, before[1] + total
    bins = [part.bins for part in parts if part.bins]
    if not bins or len({len(one.count) for one in bins}) > 1:
        return SetDetails(classes, None)
    count = tuple(sum(column) for column in zip(*(one.count for one in bins), strict=True))
    means = [
        tuple(
            sum(one.count[i] * getattr(one, name)[i] for one in bins) / total if total else 0.0
            for i, total in enumerate(count)
        )
        for name in ("confidence", "accuracy")
    ]
    return SetDetails(classes, Bins(count, means[0], means[1]))


def extremes(
    classes: Mapping[str, tuple[int, int]], worst: int = 5, best: int = 5
) -> list[tuple[str, float]]:
    """Return the classes of lowest and highest accuracy, in [0, 1], lowest first; all if there are few."""
    order = sorted(
        ((name, correct / total) for name, (correct, total) in classes.items()), key=lambda item: item[1]
    )
    return order if len(order) <= worst + best else [*order[:worst], *order[len(order) - best :]]


def by_method(members: Iterable[tuple[str, SetDetails]]) -> dict[str, SetDetails]:
    """Pool details by method."""
    groups: dict[str, list[SetDetails]] = defaultdict(list)
    for method, part in members:
        groups[method].append(part)
    return {method: pool(parts) for method, parts in groups.items()}


def _parse(raw: Mapping[str, Any]) -> SetDetails:
    counts = zip(raw["classes"], raw["correct"], raw["total"], strict=True)
    classes = {str(name): (int(correct), int(total)) for name, correct, total in counts if total}
    found = raw.get("reliability")
    if not found:
        return SetDetails(classes, None)
    count, confidence, accuracy = (tuple(found[name]) for name in ("count", "confidence", "accuracy"))
    if not len(count) == len(confidence) == len(accuracy):
        raise ValueError("reliability bins of different lengths")
    bins = Bins(tuple(map(int, count)), tuple(map(float, confidence)), tuple(map(float, accuracy)))
    return SetDetails(classes, bins)
