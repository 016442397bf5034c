"""Results that papers and their repositories published."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass, replace
from importlib import resources
from typing import TYPE_CHECKING

from mmadapt.collect.results.order import METHOD_ORDER, sort_data, sort_names
from mmadapt.collect.tables.render import label_of
from mmadapt.collect.tables.table import AVERAGE, Entry, Grid
from mmadapt.errors import UserError
from mmadapt.results import harmonic_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mmadapt.collect.results.load import Filter

UNVERIFIED = "†"
LEGEND = f"{UNVERIFIED} not verified: quoted from memory, not read in the source."


@dataclass(frozen=True)
class Row:
    """One published number, under our names.

    ``data`` may be `AVERAGE` and ``scored`` H. ``verified``: whether it was read in its source; ``computed``:
    whether it is no row of the files but computed from two; ``comparable``: whether base and new are halves, as
    here, where some repositories tried other ratios. The numbers are in percent.
    """

    method: str
    clip: str
    protocol: str
    data: str
    shots: int
    scored: str
    accuracy: float
    std: float | None
    source: str
    verified: bool
    computed: bool = False
    comparable: bool = True

    @property
    def marks(self) -> str:
        """A mark if the number was not read in its source."""
        return "" if self.verified else UNVERIFIED


def backbone(name: str) -> str:
    """Return our name of a backbone: ``vit_b16`` for ``ViT-B/16``."""
    return name.lower().replace("/", "").replace("-", "_")


def published(wanted: Filter | None = None, sets: Sequence[str] = ()) -> list[Row]:
    """Return the published numbers, in the order of the files, that pass the filter.

    H is computed from base and new of one source where both are there; no source is rounded or corrected.

    Raises:
        UserError: If no number passes.
    """
    rows: list[Row] = []
    folder = resources.files("mmadapt.collect.tables") / "papers"
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".csv"):
            rows += map(_row, csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"))))
    rows = _with_h(rows)
    kept = [row for row in rows if _admits(wanted, row) and (not sets or row.scored in sets)]
    if not kept:
        methods = ", ".join(sort_names({row.method for row in rows}, METHOD_ORDER))
        raise UserError(f"No published number passes the filter. Relax it; there are numbers of {methods}.")
    return kept


def _row(raw: dict[str, str]) -> Row:
    data = AVERAGE if raw["dataset"] == "average" else raw["dataset"]
    scored = raw["split"]
    if scored == "all" and raw["protocol"] == "few_shot":
        scored = "test"
    elif scored == "all" and raw["protocol"] in ("cross_dataset", "domain_generalization"):
        scored = data
    ratio = re.search(r"base:new (\d+):(\d+)", raw["source"])
    return Row(
        raw["method"],
        backbone(raw["backbone"]),
        raw["protocol"],
        data,
        int(raw["shots"]),
        scored,
        float(raw["accuracy"]),
        float(raw["std"]) if raw["std"] else None,
        raw["source"],
        raw["verified"] == "read",
        comparable=ratio is None or ratio[1] == ratio[2],
    )


def _with_h(rows: Sequence[Row]) -> list[Row]:
    pairs: dict[Row, dict[str, list[Row]]] = {}
    for row in rows:
        if row.protocol == "base_to_new" and row.scored in ("base", "new"):
            key = replace(row, scored="H", accuracy=0.0, std=None, verified=True, computed=True)
            pairs.setdefault(key, {"base": [], "new": []})[row.scored].append(row)
    found = list(rows)
    for key, pair in pairs.items():
        if len(pair["base"]) == len(pair["new"]) == 1:  # or else no telling which belong together
            base, new = pair["base"][0], pair["new"][0]
            h, verified = harmonic_mean(base.accuracy, new.accuracy), base.verified and new.verified
            source = f"{key.source} (H computed)"
            found.append(replace(key, accuracy=round(h, 2), verified=verified, source=source))
    return found


def _admits(wanted: Filter | None, row: Row) -> bool:
    if wanted is None:
        return True
    methods = {name.split(" [")[0] for name in wanted.method}
    return all(
        (
            not wanted.protocol or row.protocol in wanted.protocol,
            not wanted.clip or row.clip in wanted.clip,
            not methods or row.method in methods,
            not wanted.shots or row.shots in (0, *wanted.shots),
            not wanted.data
            or row.data in wanted.data
            or row.protocol in ("cross_dataset", "domain_generalization"),
        )
    )


def list_published(rows: Iterable[Row]) -> list[Grid]:
    """Return the numbers as they were published: a grid per protocol and backbone."""
    grids = []
    for (protocol, clip), members in grouped(rows).items():
        lines = []
        for row in members:
            accuracy = f"{row.accuracy:.2f}" + (f" ± {row.std:.2f}" if row.std is not None else "")
            lines.append([*map(Entry, (row.method, *names_of(row))), Entry(accuracy, row.marks)])
        notes = [] if all(row.verified for row in members) else [LEGEND]
        caption = f"Published top-1 accuracy (%); protocol: {protocol}; CLIP: {clip}."
        header = ["method", "data", "shots", "set", "source", "accuracy (%)"]
        label = label_of(("published", protocol, clip))
        grids.append(Grid(caption, header, lines, label, notes, 5, [vars(row) for row in members]))
    return grids


def grouped(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """Return the rows by protocol and backbone, ordered by data set, shots, scored set and method."""
    rows = list(rows)
    data = [*sort_data({row.data for row in rows} - {AVERAGE}), AVERAGE]
    methods = sort_names({row.method for row in rows}, METHOD_ORDER)
    sets = {"base": 0, "new": 1, "H": 2}
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(
        rows, key=lambda r: (data.index(r.data), r.shots, sets.get(r.scored, 0), methods.index(r.method))
    ):
        groups.setdefault((row.protocol, row.clip), []).append(row)
    return dict(sorted(groups.items()))


def names_of(row: Row) -> tuple[str, str, str, str]:
    """Return data set, shots, scored set and source as text."""
    return row.data, str(row.shots), row.scored, row.source
