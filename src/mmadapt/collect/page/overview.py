"""The head of the report: what was run, when, with which code, and what to be wary of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmadapt.collect.page.model import PROTOCOL_ORDER, Block
from mmadapt.collect.results.consistency import count_shots, find_mixed, group_cells
from mmadapt.collect.results.order import METHOD_ORDER, sort_data, sort_names
from mmadapt.collect.tables.notes import marks_of
from mmadapt.collect.tables.render import display

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mmadapt.collect.results.load import Failure, Run

TITLES = {
    "few_shot": "Few-shot",
    "base_to_new": "Base to new",
    "cross_dataset": "Cross-dataset",
    "domain_generalization": "Domain generalisation",
}
HEADLINES = {"shots": "top-1", "base_new": "H", "transfer": "mean top-1"}


@dataclass(frozen=True)
class Shown:
    """A cell as it is written: mean, standard deviation, marks, and whether it is the best of its column."""

    mean: str
    std: str = ""
    marks: str = ""
    best: bool = False


def shown(cell: Any, table: Any, best: bool) -> Shown:
    """Return a cell of a table in parts; a dash if there is none."""
    if cell is None:
        return Shown("–")
    text, marks = display(cell, table.metric, table.n), marks_of(cell)
    mean, *rest = text.split(" ", 1)
    return Shown(mean, rest[0] if rest else "", marks, best)


def title(block: Block, blocks: Sequence[Block]) -> str:
    """Return the heading of a block, with the backbone if there are several."""
    name = TITLES.get(block.protocol, block.protocol)
    return f"{name}, {block.clip}" if len({one.clip for one in blocks}) > 1 else name


def facts(runs: Sequence[Run], failures: Sequence[Failure]) -> list[tuple[str, str]]:
    """Return name and value of what describes the whole."""
    keys = [run.key for run in runs]
    times = sorted(
        str(run.result.provenance[name])
        for run in runs
        for name in ("started", "finished")
        if run.result.provenance.get(name)
    )
    days = sorted({time[:10] for time in times})
    return [
        ("Runs", f"{len(runs)} finished" + (f", {len(failures)} failed" if failures else "")),
        ("Protocols", ", ".join(sort_names({key.protocol for key in keys}, PROTOCOL_ORDER))),
        ("CLIP", ", ".join(sorted({key.clip for key in keys}))),
        ("Data sets", _listed(sort_data({key.data for key in keys}))),
        ("Methods", _listed(sort_names({key.method for key in keys}, METHOD_ORDER))),
        ("Shots", ", ".join(map(str, sorted({key.shots for key in keys})))),
        ("Seeds", ", ".join(map(str, sorted({key.seed for key in keys})))),
        ("Dates (UTC)", " to ".join(dict.fromkeys((days[0], days[-1]))) if days else "not recorded"),
        ("Code", ", ".join(codes(runs)) or "not recorded"),
        ("Machine", ", ".join(sorted(_words(runs, "hardware"))) or "not recorded"),
    ]


def codes(runs: Iterable[Run]) -> list[str]:
    """Return the versions of the code, with commit and a star if it had uncommitted changes."""
    found: dict[str, bool] = {}
    for run in runs:
        versions, git = (run.result.provenance.get(name) for name in ("versions", "git"))
        version = versions.get("mmadapt", "") if isinstance(versions, dict) else ""
        sha = str(git.get("sha", ""))[:9] if isinstance(git, dict) else ""
        text = " ".join(part for part in (f"mmadapt {version}" if version else "", sha) if part)
        if text:
            found[text] = found.get(text, False) or run.dirty
    return [text + "*" * dirty for text, dirty in sorted(found.items())]


def warnings(runs: Sequence[Run], failures: Sequence[Failure]) -> list[tuple[str, list[str]]]:
    """Return what a reader must know before using the numbers, each with its instances."""
    found: list[tuple[str, list[str]]] = []
    dirty = [run for run in runs if run.dirty]
    if dirty:
        found.append((f"{len(dirty)} of {len(runs)} runs used code with uncommitted changes (marked *).", []))
    mixed = find_mixed(group_cells(runs), allow=True)
    if mixed:
        cells = [f"{m} on {d}, {count_shots(k)} ({p}, {c}): {why}" for (p, c, d, m, k), why in mixed.items()]
        found.append((f"{_count(len(mixed), 'cell')} of different configurations (marked †).", cells))
    versions = codes(runs)
    if len(versions) > 1:
        found.append((f"The runs come from {len(versions)} versions of the code.", versions))
    broken = [
        f"{run.key.method}, {run.key.data}, {count_shots(run.key.shots)}, seed {run.key.seed}"
        for run in runs
        if not math.isfinite(run.result.headline()[1])
    ]
    if broken:
        found.append((f"{_count(len(broken), 'run')} without a finite score.", broken))
    if failures:
        lines = [f"{failure.path}: {failure.error}" for failure in failures]
        found.append((f"{_count(len(failures), 'run')} failed.", lines))
    return found


def glance(blocks: Sequence[Block], methods: Sequence[str]) -> dict[str, Any]:
    """Return the headline of every method in every block at the block's largest number of shots."""
    columns = []
    cells: dict[str, list[Shown]] = {method: [] for method in methods}
    for block in blocks:
        k = block.top_shots
        table = block.accuracy[0][1]
        found = {method: block.headline.get((method, block.shots_of(method))) for method in methods}
        means = {m: round(c.mean, 2) for m, c in found.items() if c and math.isfinite(c.mean)}
        best = max(means.values()) if len(means) > 1 else None
        for method in methods:
            cells[method].append(shown(found[method], table, means.get(method, math.nan) == best))
        sets = len(table.data_sets)
        over = f", {sets} {'targets' if block.kind == 'transfer' else 'data sets'}" if sets > 1 else ""
        columns.append((title(block, blocks), f"{HEADLINES[block.kind]}{over}, {count_shots(k)}"))
    return {"columns": columns, "rows": [(method, cells[method]) for method in methods]}


def _listed(names: Sequence[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{len(names)}: {', '.join(names[:most])}{more}" if len(names) > 1 else ", ".join(names)


def _words(runs: Iterable[Run], name: str) -> set[str]:
    return {str(value) for run in runs if (value := run.result.provenance.get(name))}


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
