"""Reading of ``details.json``, which lies beside a result: counts by class, and reliability bins."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmadapt.errors import UserError
from mmadapt.results import DETAILS_FILE, DETAILS_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from mmadapt.collect.results.load import Run


@dataclass(frozen=True)
class Bins:
    """Reliability bins: number of images, mean confidence and accuracy (0 where a bin is empty)."""

    count: tuple[int, ...]
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]

    @property
    def ece(self) -> float:
        """The expected calibration error, in [0, 1]."""
        gaps = zip(self.count, self.confidence, self.accuracy, strict=True)
        return sum(n * abs(confidence - accuracy) for n, confidence, accuracy in gaps) / max(
            1, sum(self.count)
        )


@dataclass(frozen=True)
class SetDetails:
    """Counts of one scored set.

    Attributes:
        classes: Number of right and of all images by class; classes without images are left out.
        bins: Reliability bins, or None.
        ece: Expected calibration error of each run that has bins, in [0, 1].
        runs: Number of runs that were pooled, with or without bins.
    """

    classes: dict[str, tuple[int, int]]
    bins: Bins | None
    ece: tuple[float, ...] = ()
    runs: int = 1


def read(folder: Path) -> dict[str, SetDetails]:
    """Return the details of a run by scored set, empty if there is no file.

    Raises:
        UserError: If the file is there but is none of this layout.
    """
    path = folder / DETAILS_FILE
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["schema"] != DETAILS_SCHEMA:
            raise ValueError(f"schema {raw['schema']!r} instead of {DETAILS_SCHEMA}")
        return {str(name): _parse(part) for name, part in raw["sets"].items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} holds no details of a run ({error}). Delete it, or run the job again."
        ) from error


def _parse(raw: Mapping[str, Any]) -> SetDetails:
    counts = zip(raw["classes"], raw["correct"], raw["total"], strict=True)
    classes = {str(name): (int(correct), int(total)) for name, correct, total in counts if total}
    found = raw.get("reliability")
    if not found:
        return SetDetails(classes, None)
    rows = list(zip(found["count"], found["confidence"], found["accuracy"], strict=True))
    means = [tuple(float(row[part] or 0.0) if row[0] else 0.0 for row in rows) for part in (1, 2)]
    bins = Bins(tuple(int(row[0]) for row in rows), means[0], means[1])
    return SetDetails(classes, bins, (bins.ece,))


def pool(parts: Sequence[SetDetails]) -> SetDetails:
    """Add up the counts of several runs on the same images; bins are averaged by their counts."""
    classes: dict[str, tuple[int, int]] = {}
    for part in parts:
        for name, (correct, total) in part.classes.items():
            before = classes.get(name, (0, 0))
            classes[name] = before[0] + correct, before[1] + total
    bins = [part.bins for part in parts if part.bins]
    if not bins or len({len(one.count) for one in bins}) > 1:
        return SetDetails(classes, None, runs=len(parts))
    count = tuple(sum(column) for column in zip(*(one.count for one in bins), strict=True))
    means = [
        tuple(
            sum(one.count[i] * getattr(one, name)[i] for one in bins) / total if total else 0.0
            for i, total in enumerate(count)
        )
        for name in ("confidence", "accuracy")
    ]
    ece = tuple(error for part in parts for error in part.ece)
    return SetDetails(classes, Bins(count, means[0], means[1]), ece, len(parts))


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


def read_reliability(runs: Iterable[Run]) -> dict[tuple[str, str, str, str], dict[str, SetDetails]]:
    """Return the pooled bins by method, for each protocol, backbone, data set and scored set that has some.

    The runs of a method are pooled, so they should have the same shots.

    Raises:
        UserError: If a file is not valid.
    """
    seen: dict[tuple[str, str, str, str], list[tuple[str, SetDetails]]] = defaultdict(list)
    for run in runs:
        found = read(run.path)
        for name in run.result.scores:
            place = run.key.protocol, run.key.clip, run.key.data, name
            seen[place].append((run.key.method, found.get(name, SetDetails({}, None))))
    diagrams = {}
    for place, members in seen.items():
        if pooled := {method: part for method, part in by_method(members).items() if part.bins}:
            diagrams[place] = pooled
    return diagrams
