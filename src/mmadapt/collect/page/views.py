"""The blocks of a report as the template takes them: figures, tables in text, legends."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmadapt.collect.page import figures, overview, rows
from mmadapt.collect.page.svg import COLOURS, MARKERS, short
from mmadapt.collect.results import details as behind
from mmadapt.collect.results.consistency import count_shots
from mmadapt.collect.results.order import METHOD_ORDER, sort_data, sort_names
from mmadapt.collect.tables.render import caption
from mmadapt.collect.tables.table import AVERAGE, Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from markupsafe import Markup

    from mmadapt.collect.page.model import Block, Named

Details = dict[Path, dict[str, behind.SetDetails]]
"""Details by the folder of the run and by scored set."""


def numbers(methods: Sequence[str]) -> dict[str, int]:
    """Number the methods for colour, line and marker; the baseline is grey and comes last."""
    order = [*(method for method in methods if method != figures.BASELINE), figures.BASELINE]
    return {method: number for number, method in enumerate(order)}


def _legend(methods: Sequence[str], index: Mapping[str, int]) -> list[dict[str, Any]]:
    return [
        {
            "method": method,
            "index": index[method],
            "colour": "base" if method == figures.BASELINE else f"c{index[method] % COLOURS}",
            "dash": f"d{index[method] // COLOURS % 3}",
            "marker": index[method] % len(MARKERS),
        }
        for method in methods
    ]


def block_view(
    block: Block,
    blocks: Sequence[Block],
    index: Mapping[str, int],
    details: Details,
) -> dict[str, Any]:
    """Return everything the sections of a block show."""
    behind_sets = _by_set(block, details)
    return {
        "id": f"b{blocks.index(block)}",
        "title": overview.title(block, blocks),
        "kind": block.kind,
        "clip": block.clip,
        "protocol": block.protocol,
        "classifiers": block.classifiers,
        "legend": _legend(block.methods, index),
        "figures": _figures(block, index),
        "tables": [(label, _table(table)) for label, table in block.accuracy],
        "calibration": [(label, _table(table)) for label, table in block.calibration],
        "reliability": [
            (label, _diagrams(members, label, index))
            for label, members in behind_sets.items()
            if any(part.bins for part in members.values())
        ],
        "classes": [(label, found) for label, members in behind_sets.items() if (found := _classes(members))],
        "shots": count_shots(block.top_shots),
        "cost": _cost(block, index),
    }


def _figures(block: Block, index: Mapping[str, int]) -> list[tuple[str, Markup]]:
    found: list[tuple[str, Markup | None]] = []
    for label, table in block.accuracy:
        if block.kind == "transfer":
            found += [(_column(c, table), figures.bars(table, c, index)) for c in table.columns]
        elif block.kind == "base_new":
            if "base" in table.columns:
                found.append((label, figures.base_new(table, index)))
        elif table.data is not None:
            found.append((label, figures.curves(table, index)))
    return [(label, figure) for label, figure in found if figure]


def _column(column: str | int, table: Table) -> str:
    if isinstance(column, int):
        return count_shots(column)
    over = "targets" if table.heads else "data sets"
    average = f"Average, {len(table.data_sets)} {over}"
    return average if column == AVERAGE else table.heads.get(column, column)


def _table(table: Table) -> dict[str, Any]:
    best = {column: table.best(column) for column in table.columns}
    return {
        "metric": f"{table.metric.name} ({table.metric.unit}) {table.metric.arrow}",
        "columns": [_column(column, table) for column in table.columns],
        "rows": [
            (
                method,
                [
                    overview.shown(table.cells.get((method, column)), table, method in best[column])
                    for column in table.columns
                ],
            )
            for method in table.methods
        ],
        "caption": caption(table),
        "notes": table.notes,
    }


def _by_set(block: Block, details: Details) -> dict[str, dict[str, behind.SetDetails]]:
    """Return pooled details by method at the largest number of shots, by the name of what was scored."""
    members: dict[tuple[str, str], list[tuple[str, behind.SetDetails]]] = defaultdict(list)
    for run in block.runs:
        if run.key.shots == block.shots_of(run.key.method):
            for name, part in details.get(run.path, {}).items():
                members[run.key.data, name].append((run.key.method, part))
    order = {data: place for place, data in enumerate(sort_data({data for data, _ in members}))}
    found = {}
    for data, name in sorted(members, key=lambda key: order[key[0]]):
        label = name if name == data else f"{data}: {name}" if name != "test" else data
        pooled = behind.by_method(members[data, name])
        found[label] = {m: pooled[m] for m in sort_names(pooled, METHOD_ORDER)}
    return found


def _diagrams(
    members: Mapping[str, behind.SetDetails], label: str, index: Mapping[str, int]
) -> list[tuple[str, str, Markup]]:
    return [
        (
            method,
            f"ECE {100 * sum(part.ece) / len(part.ece):.2f} %",
            figures.reliability(part.bins, method, index, label),
        )
        for method, part in members.items()
        if part.bins
    ]


def _classes(members: Mapping[str, behind.SetDetails]) -> dict[str, Any] | None:
    """Return the classes with the lowest and highest accuracy on average over the methods."""
    common = set.intersection(*(set(part.classes) for part in members.values()))
    share = {
        name: [part.classes[name][0] / part.classes[name][1] for part in members.values()] for name in common
    }
    order = sorted(common, key=lambda name: (sum(share[name]), name))
    if not order:
        return None
    chosen = order if len(order) <= 15 else [*order[:10], *order[-5:]]
    return {
        "methods": list(members),
        "rows": [
            (name, next(iter(members.values())).classes[name][1], [100 * value for value in share[name]])
            for name in chosen
        ],
        "total": len(order),
        "gap": 10 if len(chosen) < len(order) else None,
    }


def _cost(block: Block, index: Mapping[str, int]) -> dict[str, Any]:
    costs: dict[tuple[str, int], list[Mapping[str, Any]]] = defaultdict(list)
    for run in block.runs:
        costs[run.key.method, run.key.shots].append(run.result.cost)
    first: Named = block.accuracy[0]
    figures_, columns = [], {}
    for what, read in _COSTS.items():
        means = {
            key: sum(values) / len(values)
            for key, members in costs.items()
            if (values := [value for cost in members if (value := read(cost)) is not None])
        }
        columns[what] = means
        points = {key: (mean, block.headline[key]) for key, mean in means.items() if key in block.headline}
        if what != "Peak memory (MiB)" and (
            figure := figures.cost(points, first[1], index, (what, f"{overview.HEADLINES[block.kind]} (%)"))
        ):
            figures_.append((what, figure))
    lines = []
    for method in block.methods:
        values = [columns[what].get((method, block.shots_of(method))) for what in _COSTS]
        if any(value is not None for value in values):
            lines.append(
                (
                    method,
                    [("–" if v is None else write(v), v) for v, write in zip(values, _WRITE, strict=True)],
                )
            )
    return {"figures": figures_, "columns": list(_COSTS), "rows": lines}


def _number(name: str) -> Any:
    return lambda cost: float(cost[name]) if isinstance(cost.get(name), int | float) else None


_WRITE = (short, "{:,.0f}".format, "{:,.0f}".format)
_COSTS = {
    "Seconds to adapt": rows.adapt_seconds,
    "Trainable parameters": _number("trainable_params"),
    "Peak memory (MiB)": _number("peak_memory_mib"),
}
