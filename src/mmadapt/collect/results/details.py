"""Reading of ``details.json``, which lies beside a result."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

from mmadapt.errors import UserError
from mmadapt.results import DETAILS_FILE, DETAILS_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mmadapt.collect.results.load import Run

T = TypeVar("T")


def read_details(folder: Path, parse: Callable[[dict[str, Any]], T]) -> dict[str, T]:
    """Return what is made of each scored set of a run; empty if the run has no details.

    Raises:
        UserError: If the file is there but is none of this layout.
    """
    path = folder / DETAILS_FILE
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["schema"] != DETAILS_SCHEMA:
            raise ValueError(f"schema {raw['schema']!r} instead of {DETAILS_SCHEMA}")
        return {str(name): parse(part) for name, part in raw["sets"].items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} holds no details of a run ({error}). Delete it, or run the job again."
        ) from error


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


@dataclass(frozen=True)
class Reliability:
    """Bins of equal width in confidence, pooled over seeds.

    Attributes:
        count: Images per bin.
        confidence: Mean confidence per bin, in [0, 1]; NaN without images.
        accuracy: Share of right answers per bin; NaN without images.
        ece: Expected calibration error by seed, in [0, 1].
        seeds: Number of runs of the cell, with or without details.
    """

    count: tuple[int, ...]
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    ece: tuple[float, ...]
    seeds: int


def read_reliability(runs: Iterable[Run]) -> dict[tuple[str, str, str, str], dict[str, Reliability]]:
    """Return the reliability by method, for each protocol, backbone, data set and scored set.

    The runs of a method are pooled, so they should have the same shots.

    Runs without ``details.json`` are left out; `Reliability.ece` has fewer values than ``seeds`` then.

    Raises:
        UserError: If a file is not valid.
    """
    seen: dict[tuple[str, str, str, str], dict[str, list[Any]]] = {}
    for run in runs:
        details = read_details(run.path, _bins)
        for name in run.result.scores:
            bins = details.get(name)
            key = run.key.protocol, run.key.clip, run.key.data, name
            seen.setdefault(key, {}).setdefault(run.key.method, []).append(bins)
    found: dict[tuple[str, str, str, str], dict[str, Reliability]] = {}
    for key, methods in seen.items():
        pooled = {method: _pool(bins) for method, bins in methods.items() if any(bins)}
        if pooled:
            found[key] = pooled
    return found


def _bins(part: dict[str, Any]) -> list[tuple[int, float, float]] | None:
    if (raw := part.get("reliability")) is None:
        return None
    rows = zip(raw["count"], raw["confidence"], raw["accuracy"], strict=True)
    return [(int(n), float(c or 0.0), float(a or 0.0)) if n else (0, 0.0, 0.0) for n, c, a in rows]


def _pool(runs: list[list[tuple[int, float, float]] | None]) -> Reliability:
    present = [bins for bins in runs if bins]
    if len({len(bins) for bins in present}) > 1:
        raise UserError(
            f"{DETAILS_FILE} of one cell have different numbers of bins. Run the older jobs again."
        )
    count, confidence, accuracy = [], [], []
    for column in zip(*present, strict=True):
        n = sum(part[0] for part in column)
        count.append(n)
        confidence.append(sum(part[0] * part[1] for part in column) / n if n else math.nan)
        accuracy.append(sum(part[0] * part[2] for part in column) / n if n else math.nan)
    ece = tuple(
        sum(n * abs(c - a) for n, c, a in bins) / max(1, sum(n for n, _, _ in bins)) for bins in present
    )
    return Reliability(tuple(count), tuple(confidence), tuple(accuracy), ece, len(runs))
