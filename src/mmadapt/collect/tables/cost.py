"""What a method costs, beside what it attains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmadapt.collect.tables.run_group import Block, Cells, average, combine
from mmadapt.collect.tables.table import AVERAGE, Cell, Metric
from mmadapt.results import harmonic_mean

if TYPE_CHECKING:
    from mmadapt.collect.results.load import Run
    from mmadapt.collect.tables.table import Table

COSTS: dict[str | int, Metric] = {
    metric.name: metric
    for metric in (
        Metric("trainable_params", "Trainable parameters", "", 1.0, 0, False),
        Metric("train_seconds", "Training", "s", 1.0, 2, False),
        Metric("total_seconds", "All phases", "s", 1.0, 2, False),
        Metric("peak_memory_mib", "Peak memory", "MiB", 1.0, 0, False),
    )
}
HEADLINE = "headline"
_HEADS = {
    "trainable_params": "parameters",
    "train_seconds": "train",
    "total_seconds": "total",
    "peak_memory_mib": "peak memory",
}
_TOTAL = "total: all recorded phases; a run that finds its features in the store does not encode them again"

_MEMORY = "peak memory: of the GPU, or else of the whole process"


def value(run: Run, name: str) -> float | None:
    """Return a cost of a run, or None if it is not recorded."""
    cost = run.result.cost
    if name == HEADLINE:
        return 100 * run.result.headline()[1] if run.result.scores else None
    if name == "total_seconds":
        seconds = [number for key, number in cost.items() if key.endswith("_seconds")]
        return sum(seconds) if seconds else None
    return cost.get(name)


def by_cost(block: Block) -> list[Table]:
    """Return parameters, seconds, memory and the headline accuracy by method: one table per shots.

    With several data sets the numbers are means over data sets, and only if every one is there.
    """
    label = next((run.result.headline()[0] for run in block.runs if run.result.scores), "top-1")
    headline = Metric(HEADLINE, label, "%", 100.0, 2, True)
    metrics: dict[str | int, Metric] = {**COSTS, HEADLINE: headline}
    place = AVERAGE if len(block.data_sets) > 1 else block.data_sets[0]
    sets = list(dict.fromkeys(name for run in block.runs for name in run.result.scores))
    tables = []
    for shots in block.fixed_shots():
        cells: Cells = {}
        gaps: dict[tuple[str, int], str] = {}
        for method in block.methods:
            at = block.at(method, shots)
            for name in map(str, metrics):
                if name == HEADLINE and label == "H" and place == AVERAGE:
                    cell, gap = _mean_h(block, method, at)
                    cells |= {(method, name): cell} if cell else {}
                    continue
                single = {
                    data: block.cell((method, data, at), lambda run, name=name: value(run, name))  # type: ignore[misc]
                    for data in block.data_sets
                }
                cell, gap = average(single) if place == AVERAGE else (single[place], "")
                if cell:
                    cells[method, name] = cell
                elif gap:
                    gaps.setdefault((method, at), gap)
        table = block.table(
            shots,
            place,
            tuple(metrics),
            cells,
            [],
            gaps,
            metric=headline,
            metrics=metrics,
            view="cost",
            scored=", ".join(sets),
            subject=f"Cost and accuracy ({label})",
            remarks=(_TOTAL, _MEMORY),
            heads={name: _head(name, metric) for name, metric in metrics.items()},
        )
        hardware = sorted(
            {str(run.result.provenance.get("hardware", "")) for run in block.covered(shots)} - {""}
        )
        if len(hardware) > 1:
            table.notes.append(f"Seconds and memory are from different machines: {'; '.join(hardware)}.")
        elif hardware:
            table.remarks = (*table.remarks, f"machine: {hardware[0]}")
        tables.append(table)
    return tables


def _mean_h(block: Block, method: str, shots: int) -> tuple[Cell | None, str]:
    """Return H of base and new averaged over the data sets, as in the view base-new."""
    pair = []
    for scored in ("base", "new"):

        def top1(run: Run, scored: str = scored) -> float | None:
            score = run.result.scores.get(scored)
            return None if score is None else 100 * score.top1

        single = {data: block.cell((method, data, shots), top1) for data in block.data_sets}
        mean, gap = average(single)
        if mean is None:
            return None, gap
        pair.append(mean)
    values = {
        seed: harmonic_mean(base, pair[1].values[seed])
        for seed, base in pair[0].values.items()
        if seed in pair[1].values
    }
    return (combine(pair, values), "") if values else (None, "")


def _head(name: str | int, metric: Metric) -> str:
    unit = f" ({metric.unit})" if metric.unit else ""
    return f"{_HEADS.get(str(name), metric.label)}{unit} {metric.arrow}"
