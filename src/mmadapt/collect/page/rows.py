"""The runs as compact JSON, from which the page fills its table of runs."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from mmadapt.collect.results.check import commands
from mmadapt.collect.results.details import extremes
from mmadapt.collect.tables.table import METRICS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mmadapt.collect.results.details import SetDetails
    from mmadapt.collect.results.load import Run

SECONDS = ("adapt_seconds", "train_seconds", "search_seconds")
"""The phases of `Result.cost` that adapt the model; encoding and evaluation are not counted."""


def adapt_seconds(cost: Mapping[str, Any]) -> float | None:
    """Return the seconds spent on adaptation, 0 without any such phase, or None if no cost was recorded."""
    found = [float(cost[name]) for name in SECONDS if isinstance(cost.get(name), int | float)]
    return sum(found) if cost else None


def to_json(runs: Sequence[Run], details: Mapping[Path, Mapping[str, SetDetails]]) -> str:
    """Return runs and the parts of their configurations, each different part once.

    Args:
        runs: The runs.
        details: Details by the folder of the run, then by scored set.

    Returns:
        JSON that may stand inside a ``script`` element: it contains neither ``<`` nor ``&``.
    """
    pool: dict[str, int] = {}

    def shared(value: Any) -> int:
        return pool.setdefault(json.dumps(_plain(value), ensure_ascii=False, allow_nan=False), len(pool))

    rows = []
    for run in runs:
        result, origin = run.result, run.result.provenance
        name, value = result.headline()
        single = next(iter(result.scores.values())) if len(result.scores) == 1 else None
        rows.append(
            {
                "key": vars(result.key),
                "name": name,
                "value": value,
                "ece": single.ece if single else None,
                "nll": single.nll if single else None,
                "seconds": adapt_seconds(result.cost),
                "params": result.cost.get("trainable_params"),
                "finished": str(origin.get("finished", ""))[:19],
                "dirty": run.dirty,
                "command": str(origin.get("command") or commands([result.key])[0]),
                "path": str(run.path),
                "scores": {
                    scored: [
                        *(round(getattr(score, metric), 6) for metric in METRICS),
                        score.correct,
                        score.total,
                        score.classes,
                        score.classifier,
                    ]
                    for scored, score in result.scores.items()
                },
                "selection": result.selection,
                "draw": result.data,
                "cost": result.cost,
                "fingerprint": result.fingerprint,
                "times": [origin.get("started"), origin.get("finished")],
                "code": shared({k: origin.get(k) for k in ("versions", "git", "hardware", "world_size")}),
                "config": {part: shared(content) for part, content in result.config.items()},
                "classes": {
                    scored: [(name, round(share, 4)) for name, share in extremes(part.classes)]
                    for scored, part in details.get(run.path, {}).items()
                    if part.classes
                },
            }
        )
    text = json.dumps(_plain(rows), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    whole = f'{{"pool":[{",".join(pool)}],"runs":{text}}}'
    return (
        whole.replace("<", "\\u003c")
        .replace(">", "\\u003e")
        .replace("&", "\\u0026")
        .replace("\u2028", "\\u2028")
        .replace("\u2029", "\\u2029")
    )


def _plain(value: Any) -> Any:
    """Return a value JSON can hold; what is no finite number becomes a word."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if value is None or isinstance(value, bool | int | str) else str(value)
