"""The parts of a table: metrics, cells and the order of names."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

AVERAGE = "Average"
"""Stands for the mean over all data sets where a data set is expected."""
View = Literal["methods-by-shots", "methods-by-data"]

DATA_ORDER = (
    "imagenet", "caltech101", "oxfordpets", "stanfordcars", "flowers102", "oxfordflowers", "food101",
    "fgvcaircraft", "sun397", "dtd", "describabletextures", "eurosat", "ucf101",
)  # fmt: skip
"""The order of the CoOp paper, without underscores; others follow alphabetically, the average is last."""
METHOD_ORDER = ("zero_shot", "linear_probe")
"""Baselines that come first; other methods follow alphabetically."""
SET_ORDER = ("test", "base", "new")


@dataclass(frozen=True)
class Metric:
    """A column of `mmadapt.results.Score` and how it is shown."""

    name: str
    label: str
    unit: str
    scale: float
    digits: int
    higher_is_better: bool

    @property
    def arrow(self) -> str:
        """Direction of improvement."""
        return "↑" if self.higher_is_better else "↓"


METRICS = {
    metric.name: metric
    for metric in (
        Metric("top1", "Top-1 accuracy", "%", 100.0, 2, True),
        Metric("top1_macro", "Mean class accuracy", "%", 100.0, 2, True),
        Metric("top5", "Top-5 accuracy", "%", 100.0, 2, True),
        Metric("nll", "Negative log-likelihood", "nats", 1.0, 3, False),
        Metric("ece", "Expected calibration error", "%", 100.0, 2, False),
    )
}


@dataclass(frozen=True)
class Cell:
    """One method on one data set (or on average) at one number of shots.

    Attributes:
        method: Name of the method.
        data: Name of the data set, or `AVERAGE`.
        shots: Training images per class.
        values: Value by seed, in the unit of the metric.
        dirty: Whether a value comes from code with uncommitted changes.
        mixed: Whether the values come from different configurations (``--allow-mixed``).
    """

    method: str
    data: str
    shots: int
    values: Mapping[int, float]
    dirty: bool = False
    mixed: bool = False

    @property
    def n(self) -> int:
        """Number of seeds."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """Mean over seeds; NaN if one value is NaN."""
        return sum(self.values.values()) / self.n

    @property
    def std(self) -> float | None:
        """Sample standard deviation (ddof = 1) over seeds; None for a single seed."""
        if self.n < 2:
            return None
        return math.sqrt(sum((value - self.mean) ** 2 for value in self.values.values()) / (self.n - 1))


@dataclass
class Table:
    """Cells arranged in rows of methods.

    Attributes:
        protocol: Name of the protocol.
        clip: Name of the backbone.
        scored: Name of the scored set of images.
        metric: What is shown.
        data: The data set of the table, `AVERAGE`, or None if data sets are the columns.
        shots: The shots of the table, or None if shots are the columns.
        data_sets: Every data set an average covers.
        methods: Names of the rows.
        columns: Shots or data sets.
        cells: Cell by method and column; missing ones are absent.
        rules: Methods by the selection rule of their results.
        version: Version of the evaluation protocol.
        notes: Remarks on single cells.
    """

    protocol: str
    clip: str
    scored: str
    metric: Metric
    data: str | None
    shots: int | None
    data_sets: tuple[str, ...]
    methods: tuple[str, ...]
    columns: tuple[str | int, ...]
    cells: dict[tuple[str, str | int], Cell]
    rules: dict[str, tuple[str, ...]]
    version: int
    notes: list[str] = field(default_factory=list)

    @property
    def n(self) -> int:
        """The largest number of seeds of a cell."""
        return max((cell.n for cell in self.cells.values()), default=0)

    def best(self, column: str | int) -> set[str]:
        """Return the methods with the best value of a column as displayed; none if only one has a value."""
        means = {row: self.cells[row, column].mean for row in self.methods if (row, column) in self.cells}
        shown = {row: round(mean, self.metric.digits) for row, mean in means.items() if math.isfinite(mean)}
        if len(shown) < 2:
            return set()
        best = max(shown.values()) if self.metric.higher_is_better else min(shown.values())
        return {row for row, value in shown.items() if value == best}


def sort_names(names: Iterable[str], first: Sequence[str], key: Callable[[str], str] = str) -> list[str]:
    """Sort names alphabetically, but those whose ``key`` is listed in ``first`` before, in its order."""
    rank = {name: index for index, name in enumerate(first)}
    return sorted(names, key=lambda name: (rank.get(key(name), len(rank)), name))


def sort_data(names: Iterable[str]) -> list[str]:
    """Sort data sets in the order of the CoOp paper."""
    return sort_names(names, DATA_ORDER, lambda name: name.replace("_", "").lower())
