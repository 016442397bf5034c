"""Write tables for readers: Markdown and LaTeX."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from mmadapt.collect.results.consistency import count_shots
from mmadapt.collect.tables.notes import MIXED, marks_of
from mmadapt.collect.tables.table import AVERAGE, Cell, Entry, Grid, Metric, Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

WIDE = 6
"""A LaTeX table with more columns of numbers spans both columns of the page."""
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#",
    "$": r"\$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "↑": r"$\uparrow$",
    "↓": r"$\downarrow$", "→": r"$\to$", "†": r"$\dagger$", "–": "--", "<": r"$<$", ">": r"$>$", "|": r"$|$",
    "‡": r"$\ddagger$", "§": r"$\S$", "·": r"$\cdot$", "−": "$-$", "×": r"$\times$", "…": r"\ldots{}",
    "α": r"$\alpha$", "β": r"$\beta$",
}  # fmt: skip
_LATEX_MARKS = {MIXED: r"\dagger", "‡": r"\ddagger", "§": r"\S"}


def caption(table: Table, *, full: bool = False) -> str:
    """Return what a reader must know to use the numbers.

    Args:
        table: The table.
        full: Also say so if no hyper-parameter was tuned: for a paper, which stands alone.
    """
    metric = table.metric
    if table.view in ("cross-dataset", "shifts"):
        where = f" {table.subject}"
    elif table.data == AVERAGE or (table.data is None and len(table.data_sets) > 1):
        where = f", mean over {len(table.data_sets)} data sets ({', '.join(table.data_sets)})"
        where = where if table.data else f" by data set; {AVERAGE}{where}"
    else:
        where = f" on {table.data or table.data_sets[0]}"
    at = f", {count_shots(table.shots)}" if table.shots is not None else ""
    what = table.subject if table.view == "cost" else f"{metric.label} ({metric.measure})"
    sets = f"scored set{'s' if ',' in table.scored else ''}: {table.scored}"
    remarks = "".join(f"; {remark}" for remark in table.remarks)
    return (
        f"{what}{where}{at}; {sets}; "
        f"protocol: {table.protocol}, version {table.version}; CLIP: {table.clip}; {spread(table)}"
        f"{remarks}; {selection([table], full=full)}."
    )


def selection(tables: Iterable[Table], *, full: bool = True) -> str:
    """Return how epochs and hyper-parameters were chosen; ``full`` also says so if none was tuned."""
    tables = list(tables)
    rules: dict[str, dict[str, None]] = {}
    tuned: dict[str, dict[str, None]] = {}
    for table in tables:
        for rule, methods in table.rules.items():
            rules.setdefault(rule, {}).update(dict.fromkeys(methods))
        for method, names in table.tuned.items():
            tuned.setdefault(method, {}).update(dict.fromkeys(names))
    parts = [
        rule if len(rules) == 1 else f"{rule} ({', '.join(methods)})"
        for rule, methods in sorted(rules.items())
    ]
    text = f"selection: {', '.join(parts)}"
    if tuned or full:
        chosen = [f"{method} ({', '.join(names)})" for method, names in tuned.items()]
        text += f"; tuned on validation images: {', '.join(chosen) or 'none'}"
    return text


def spread(table: Table) -> str:
    """Return what stands behind the ± and over how many seeds."""
    if table.n < 2:
        return "n = 1 seed, no standard deviation"
    text = f"mean ± sample standard deviation (ddof = 1) over n = {table.n} seeds"
    fewer = any(cell.n < table.n for cell in table.cells.values())
    return f"{text}, or over (n) where given" if fewer else text


def display(cell: Cell, metric: Metric, most: int) -> str:
    """Return a cell as text, with its number of seeds if that is below ``most``."""
    text = f"{cell.mean:,.{metric.digits}f}" if metric.digits == 0 else f"{cell.mean:.{metric.digits}f}"
    counts = metric.digits == 0 and not metric.unit  # a count that is the same for all seeds needs no ± 0
    if cell.std is not None and math.isfinite(cell.std) and not (counts and cell.std == 0):
        text += f" ± {cell.std:.{metric.digits}f}"
    return f"{text} ({cell.n})" if cell.n < most else text


def to_grid(table: Table, *, full: bool = False) -> Grid:
    """Return a table as text."""
    rows = []
    best = {column: table.best(column) for column in table.columns}
    for method in table.methods:
        row = [Entry(method)]
        for column in table.columns:
            if cell := table.cells.get((method, column)):
                text = display(cell, table.metric_of(column), table.n)
                row.append(Entry(text, marks_of(cell), method in best[column]))
            else:
                row.append(Entry("–"))
        rows.append(row)
    shots = [] if table.shots is None else [f"{table.shots}shot"]
    named = table.data or (table.data_sets[0] if len(table.data_sets) == 1 else "")
    if table.view in ("cross-dataset", "shifts"):
        named = next((run for run in table.heads), "")  # type: ignore[assignment]
    name = "cost" if table.view == "cost" else table.metric.name
    sets = [] if table.view in ("cost", "base-new", "cross-dataset", "shifts") else [table.scored]
    parts = [table.protocol, table.clip, str(named), *sets, name, *shots]
    corner = "method" if table.view == "cost" else table.metric.heading
    return Grid(
        caption(table, full=full),
        [corner, *(_head(table, column) for column in table.columns)],
        rows,
        label_of(parts),
        table.notes,
    )


def label_of(parts: Iterable[str]) -> str:
    """Return a label of letters, digits and hyphens."""
    return "-".join(filter(None, (re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") for part in parts)))


def to_markdown(tables: Iterable[Table | Grid]) -> str:
    """Return the tables as aligned Markdown, each with its caption above and its notes below."""
    blocks = []
    for table in tables:
        grid = to_grid(table) if isinstance(table, Table) else table
        lines = [[field.replace("|", r"\|") for field in grid.header]]
        for row in grid.rows:
            texts = [
                (f"**{entry.text}**" if entry.bold else entry.text) + entry.marks.replace("*", r"\*")
                for entry in row
            ]
            lines.append([text.replace("|", r"\|") for text in texts])
        widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(grid.header))]
        texts = ["| " + " | ".join(_pad(line, widths, grid.left)) + " |" for line in lines]
        rule = ["-" * w if i < grid.left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
        texts.insert(1, "| " + " | ".join(rule) + " |")
        parts = [grid.caption, "\n".join(texts)] if grid.rows else [grid.caption]
        if grid.notes:
            parts.append("\n".join("- " + note.replace("*", r"\*") for note in grid.notes))
        blocks.append("\n\n".join(parts))
    return "\n\n".join(blocks) + "\n"


def to_latex(tables: Iterable[Table | Grid]) -> str:
    """Return the tables as LaTeX for the booktabs package, with captions that stand alone."""
    blocks = []
    for table in tables:
        grid = to_grid(table, full=True) if isinstance(table, Table) else table
        numbers = len(grid.header) - grid.left
        kind = "table*" if numbers > WIDE else "table"
        lines = [rf"\begin{{{kind}}}", r"\centering", rf"\caption{{{escape_latex(grid.caption)}}}"]
        lines += [rf"\label{{tab:{grid.label}}}", *([r"\small"] if numbers > WIDE else [])]
        lines += [rf"\begin{{tabular}}{{{'l' * grid.left}{'r' * numbers}}}", r"\toprule"]
        lines += [" & ".join(map(escape_latex, grid.header)) + r" \\", r"\midrule"]
        for row in grid.rows:
            lines.append(" & ".join(map(_latex_entry, row)) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}"]
        lines += [rf"\par\footnotesize {escape_latex(note)}" for note in grid.notes]
        blocks.append("\n".join([*lines, rf"\end{{{kind}}}"]))
    return "% Needs \\usepackage{booktabs}.\n" + "\n\n".join(blocks) + "\n"


def escape_latex(text: str) -> str:
    """Return text that LaTeX prints as it stands."""
    return "".join(_LATEX.get(character, character) for character in text)


def _latex_entry(entry: Entry) -> str:
    text = escape_latex(entry.text)
    text = rf"\textbf{{{text}}}" if entry.bold else text
    marks = "".join(_LATEX_MARKS.get(mark, mark) for mark in entry.marks)
    return text + (f"$^{{{marks}}}$" if marks else "")


def _head(table: Table, column: str | int) -> str:
    return table.heads.get(column, count_shots(column) if isinstance(column, int) else column)


def _pad(row: Sequence[str], widths: Sequence[int], left: int) -> list[str]:
    return [
        text.ljust(width) if i < left else text.rjust(width)
        for i, (text, width) in enumerate(zip(row, widths, strict=True))
    ]
