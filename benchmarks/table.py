"""The latest measured figures of all benchmarks as a Markdown table: ``python -m benchmarks.table``."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, short


def latest(folder: Path = RESULTS) -> list[tuple[str, str, dict[str, Any]]]:
    """Return benchmark, time and outcome of the newest measurement of each name."""
    found: dict[tuple[str, str], tuple[str, str, dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.json")):
        benchmark = path.stem[:-11]  # without -YYYY-MM-DD
        for entry in json.loads(path.read_text(encoding="utf-8")):
            for outcome in [*entry["outcomes"], *entry.get("figures", [])]:
                found[benchmark, outcome["name"]] = benchmark, entry["time"], outcome
    return list(found.values())


def row(benchmark: str, time: str, outcome: dict[str, Any]) -> list[str]:
    """Return the cells of one outcome or figure."""
    start = [benchmark, outcome["name"]]
    end = [f"{outcome['load']:.1f}", time[:10]]
    if "bound" in outcome:
        missed = "" if outcome["value"] <= outcome["bound"] else " **missed**"
        return [
            *start,
            f"{outcome['value']:.3g} {outcome['unit']}{missed}",
            "",
            f"<= {outcome['bound']:.3g}",
            *end,
        ]
    ratios, goal = outcome["ratios"], outcome["goal"]
    if not ratios:
        return [*start, "not equal, no ratio", "", f"{goal:.3g}x" if goal else "", *end]
    ratio = statistics.median(ratios)
    missed = " **missed**" if goal and ratio < goal else ""
    spread = f"{short(min(ratios))}-{short(max(ratios))}"
    return [*start, f"{short(ratio)}x{missed}", spread, f"{goal:.3g}x" if goal else "", *end]


def main() -> None:
    header = ["benchmark", "what", "measured", "min-max", "goal", "load", "day"]
    for cells in (header, ["---"] * len(header), *(row(*each) for each in latest())):
        print(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")


if __name__ == "__main__":
    main()
