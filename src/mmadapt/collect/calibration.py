"""Reliability: how often a method is right when it says it is, from ``details.json`` beside the results."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmadapt.collect.details import read_details
from mmadapt.errors import UserError
from mmadapt.results import DETAILS_FILE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mmadapt.collect.load import Run


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
