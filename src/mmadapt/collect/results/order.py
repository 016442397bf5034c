"""The order of data sets, methods and scored sets in tables, figures and pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

DATA_ORDER = (
    "imagenet", "caltech101", "oxfordpets", "stanfordcars", "flowers102", "oxfordflowers", "food101",
    "fgvcaircraft", "sun397", "dtd", "describabletextures", "eurosat", "ucf101",
)  # fmt: skip
"""The order of the CoOp paper, without underscores; others follow alphabetically, the average is last."""
METHOD_ORDER = ("zero_shot", "linear_probe")
"""Baselines that come first; other methods follow alphabetically."""
SET_ORDER = ("test", "base", "new")


def sort_names(names: Iterable[str], first: Sequence[str], key: Callable[[str], str] = str) -> list[str]:
    """Sort names alphabetically, but those whose ``key`` is listed in ``first`` before, in its order."""
    rank = {name: index for index, name in enumerate(first)}
    return sorted(names, key=lambda name: (rank.get(key(name), len(rank)), name))


def sort_data(names: Iterable[str]) -> list[str]:
    """Sort data sets in the order of the CoOp paper."""
    return sort_names(names, DATA_ORDER, lambda name: name.replace("_", "").lower())
