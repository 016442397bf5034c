"""The parts of a table: metrics, cells and the order of names."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

AVERAGE = "Average"
"""Stands for the mean over all data sets, or over all targets, where a data set is expected."""


@dataclass(frozen=True)
class Metric:
    """A number of a run, such as a field of `mmadapt.results.Score`, and how it is shown."""

    name: str
    label: str
    unit: str
    scale: float
    digits: int
    higher_is_better: bool
    head: str = ""

    @property
    def arrow(self) -> str:
        """Direction of improvement."""
        return "↑" if self.higher_is_better else "↓"

    @property
    def measure(self) -> str:
        """Unit and direction, such as ``"%, ↑"``."""
        return ", ".join(filter(None, (self.unit, self.arrow)))

    @property
    def heading(self) -> str:
        """The head of a column, by its name or ``head``, such as ``"top1 (%) ↑"``."""
        unit = f" ({self.unit})" if self.unit else ""
        return f"{self.head or self.name}{unit} {self.arrow}"


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
COSTS = {
    metric.name: metric
    for metric in (
        Metric("trainable_params", "Trainable parameters", "", 1.0, 0, False, "parameters"),
        Metric("train_seconds", "Training", "s", 1.0, 2, False, "train"),
        Metric("total_seconds", "All phases", "s", 1.0, 2, False, "total"),
        Metric("peak_memory_mib", "Peak memory", "MiB", 1.0, 0, False, "peak memory"),
    )
}
HEADLINE = "headline"
"""The column of the accuracy beside the costs."""


@dataclass
class Cell:
    """One method on one scored set of a data set (or on average) at one number of shots.

    Attributes:
        method: Name of the method.
        data: Name of the data set, or `AVERAGE`.
        shots: Training images per class.
        values: Value by seed, in the unit of the metric.
        dirty: Whether a value comes from code with uncommitted changes.
        mixed: Whether the values come from different configurations (``--allow-mixed``).
        scored: Name of the scored set, or ``H``.
        differences: The keys in which mixed configurations differ; empty for what is computed from cells.
        classifiers: How the classes were told apart, see `mmadapt.results.Classifier`.
    """

    method: str
    data: str
    shots: int
    values: dict[int, float]
    dirty: bool = False
    mixed: bool = False
    scored: str = ""
    differences: str = ""
    classifiers: frozenset[str] = frozenset()

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
        mean = self.mean
        return math.sqrt(sum((value - mean) ** 2 for value in self.values.values()) / (self.n - 1))


Cells = dict[tuple[str, str | int], Cell]
"""Cells by method and column."""


@dataclass
class Table:
    """Cells arranged in rows of methods.

    Attributes:
        protocol: Name of the protocol.
        clip: Name of the backbone.
        scored: Name of the scored set of images, or of several, separated by commas.
        metric: What is shown.
        data: The data set of the table, `AVERAGE`, or None if data sets are the columns.
        shots: The shots of the table, or None if shots are the columns.
        data_sets: Every data set an average covers.
        methods: Names of the rows.
        columns: Shots, data sets, scored sets or names of metrics.
        cells: Cell by method and column; missing ones are absent.
        rules: Methods by the selection rule of their results.
        version: Version of the evaluation protocol.
        notes: Remarks on single cells.
        view: How the table is arranged.
        subject: What the table is about, if more than the metric and the data.
        remarks: How columns are computed, for the caption.
        tuned: Hyper-parameters that were chosen on validation images, by method.
        metrics: Metric by column, where it is not `metric`.
        heads: Head by column, where it is not the name.
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
    cells: Cells
    rules: dict[str, tuple[str, ...]]
    version: int
    notes: list[str] = field(default_factory=list)
    view: str = "methods-by-shots"
    subject: str = ""
    remarks: tuple[str, ...] = ()
    tuned: dict[str, tuple[str, ...]] = field(default_factory=dict)
    metrics: dict[str | int, Metric] = field(default_factory=dict)
    heads: dict[str | int, str] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """The largest number of seeds of a cell."""
        return max((cell.n for cell in self.cells.values()), default=0)

    def metric_of(self, column: str | int) -> Metric:
        """Return what a column shows."""
        return self.metrics.get(column, self.metric)

    def best(self, column: str | int) -> set[str]:
        """Return the methods with the best value of a column as displayed; none if only one has a value."""
        metric = self.metric_of(column)
        means = {row: self.cells[row, column].mean for row in self.methods if (row, column) in self.cells}
        shown = {row: round(mean, metric.digits) for row, mean in means.items() if math.isfinite(mean)}
        if len(shown) < 2:
            return set()
        best = max(shown.values()) if metric.higher_is_better else min(shown.values())
        return {row for row, value in shown.items() if value == best}


class Entry(NamedTuple):
    """One field of a row: its text, marks such as ``*``, and whether it is the best of its column."""

    text: str
    marks: str = ""
    bold: bool = False


@dataclass
class Grid:
    """Rows of text with what a reader must know to use them.

    Attributes:
        caption: What is shown, in one sentence; goes above the rows.
        header: Heads of the columns.
        rows: Entries by row and column.
        label: Name for references.
        notes: Remarks on single entries; go below the rows.
        left: Number of leading columns of names; the others are numbers.
        records: The same for programs, one record per row or number.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Entry]]
    label: str
    notes: Sequence[str] = ()
    left: int = 1
    records: list[dict[str, Any]] = field(default_factory=list)
