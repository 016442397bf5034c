"""Average results over seeds and arrange them in tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmadapt.collect.results import consistency
from mmadapt.collect.results.load import require_known
from mmadapt.collect.results.order import METHOD_ORDER, SET_ORDER, sort_names
from mmadapt.collect.tables import views as few_shot
from mmadapt.collect.tables import views as transfer
from mmadapt.collect.tables.cost import by_cost
from mmadapt.collect.tables.run_group import Block
from mmadapt.collect.tables.table import METRICS, Table, View
from mmadapt.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mmadapt.collect.results.load import Run

VIEWS: dict[View, str] = {
    "methods-by-shots": "a table per data set, shots in columns",
    "methods-by-data": "a table per number of shots, data sets in columns",
    "base-new": "base and new classes and their harmonic mean H",
    "cross-dataset": "the source data set, the targets and the targets' average",
    "shifts": "the same under domain shift",
    "cost": "parameters, seconds and memory beside the accuracy",
}
_BY_PROTOCOL: dict[str, View] = {
    "base_to_new": "base-new",
    "cross_dataset": "cross-dataset",
    "domain_generalization": "shifts",
}


def summarise(
    runs: Iterable[Run],
    *,
    metric: str = "top1",
    view: View | None = None,
    fallback: View = "methods-by-shots",
    sets: Sequence[str] = (),
    methods: Sequence[str] = (),
    allow_mixed: bool = False,
) -> list[Table]:
    """Average runs over seeds and arrange them in tables, protocol by protocol and backbone by backbone.

    Args:
        runs: Results, from `load_results`.
        metric: One of `METRICS`.
        view: One of `VIEWS`; by default the one that suits each protocol.
        fallback: The view of a protocol that none suits in particular, such as few_shot.
        sets: Scored sets to show; all by default.
        methods: Order of the rows; those not named are left out. All by default.
        allow_mixed: Accept results of different configurations in a cell, and say so in a note.

    Raises:
        UserError: If results do not belong in one table, a requested set or method has no result, or no
            protocol suits the requested view.
    """
    groups = consistency.group_cells(runs)
    mixed = consistency.find_mixed(groups, allow=allow_mixed)
    found = sort_names(
        {name for members in groups.values() for run in members for name in run.result.scores}, SET_ORDER
    )
    for name in sets:
        require_known("scored set", name, found)
    present = sort_names({method for _, _, _, method, _ in groups}, METHOD_ORDER)
    for name in methods:
        require_known("method", name, present)
    tables: list[Table] = []
    for protocol, clip in sorted({cell[:2] for cell in groups}):
        members = [run for cell, seeds in groups.items() if cell[:2] == (protocol, clip) for run in seeds]
        members = [run for run in members if not methods or run.key.method in methods]
        rows = [name for name in methods or present if any(run.key.method == name for run in members)]
        if members:
            block = Block(protocol, clip, METRICS[metric], rows, members, mixed)
            tables += _arrange(block, view, fallback, sets, found)
    if not tables and groups:
        protocols = ", ".join(sorted({cell[0] for cell in groups}))
        raise UserError(
            f"No result suits the view {view!r}: the protocols found are {protocols}, the scored sets "
            f"{', '.join(found)}. Leave --view out to get the view of each protocol."
        )
    return tables


def _arrange(
    block: Block, view: View | None, fallback: View, sets: Sequence[str], found: Sequence[str]
) -> list[Table]:
    chosen = view or _BY_PROTOCOL.get(block.protocol, fallback)
    if chosen == "cost":
        return by_cost(block)
    if chosen in _BY_PROTOCOL.values():
        if _BY_PROTOCOL.get(block.protocol) != chosen:
            return []
        arranged = (
            transfer.base_new(block, sets) if chosen == "base-new" else transfer.to_targets(block, sets)
        )
        if arranged or view:
            return arranged
    arrange = few_shot.by_data if chosen == "methods-by-data" else few_shot.by_shots
    tables: list[Table] = []
    for scored in sets or found:
        scoring = [run for run in block.runs if scored in run.result.scores]
        if scoring:
            tables += arrange(block.narrow(scoring), scored)
    return tables
