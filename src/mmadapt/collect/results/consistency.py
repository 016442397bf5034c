"""Refuse tables that would mix numbers which do not belong together."""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from mmadapt.config.identity import compare, relevant
from mmadapt.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mmadapt.collect.results.load import Run

Cell = tuple[str, str, str, str, int]
Mixed = dict[Cell, str]
"""What differs in cells of mixed configurations."""


def group_cells(runs: Iterable[Run]) -> dict[Cell, list[Run]]:
    """Group runs over seeds, each group ordered by seed.

    Raises:
        UserError: If a seed occurs twice in a cell, or protocol versions differ within a table.
    """
    cells: dict[Cell, list[Run]] = defaultdict(list)
    versions: dict[tuple[str, str], Run] = {}
    for run in runs:
        cells[run.cell].append(run)
        first = versions.setdefault(run.cell[:2], run)
        if first.result.protocol != run.result.protocol:
            raise UserError(
                f"Results of protocol versions {first.result.protocol} and {run.result.protocol} cannot be in"
                f" one table: {first.path}, {run.path}. Run the older again, or collect it alone."
            )
    for cell, members in cells.items():
        members.sort(key=lambda run: run.key.seed)
        for one, other in itertools.pairwise(members):
            if one.key.seed == other.key.seed:
                raise UserError(
                    f"{describe(cell)} has seed {one.key.seed} twice: {one.path}, {other.path}. "
                    "Collect one of the two tags, or name narrower folders."
                )
    return dict(cells)


def find_mixed(cells: Mapping[Cell, list[Run]], *, allow: bool = False) -> Mixed:
    """Return, for each cell whose runs differ in more than the seed, the keys that differ.

    Raises:
        UserError: If there is such a cell and ``allow`` is False.
    """
    mixed: Mixed = {}
    paths: dict[Cell, str] = {}
    for cell, members in cells.items():
        reference = comparable(members[0].result.config)
        for run in members[1:]:
            if found := compare(reference, comparable(run.result.config)):
                mixed[cell] = ", ".join(
                    found if len(found) <= 6 else [*found[:5], f"and {len(found) - 5} more"]
                )
                paths[cell] = f"{members[0].path}, {run.path}"
                break
    if mixed and not allow:
        cell = next(iter(mixed))
        more = f" ({len(mixed) - 1} more cells are mixed too)" if len(mixed) > 1 else ""
        raise UserError(
            f"{describe(cell)} holds results of different configurations ({mixed[cell]}): {paths[cell]}{more}"
            ". Run one of them again (overwrite=true, or another tag), or pass --allow-mixed."
        )
    return mixed


def comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return, flat, what runs of one cell must have in common: what can change a number, seeds apart."""
    return {key: value for key, value in relevant(config).items() if "seed" not in key}


def describe(cell: Cell) -> str:
    """Return a cell in words."""
    protocol, clip, data, method, shots = cell
    return f"{method} on {data} at {count_shots(shots)} ({protocol}, {clip})"


def count_shots(*numbers: int) -> str:
    """Return ``"1 shot"``, ``"1, 2 shots"``."""
    return f"{', '.join(map(str, numbers))} {'shot' if numbers == (1,) else 'shots'}"
