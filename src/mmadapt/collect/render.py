"""Write tables for readers: Markdown and LaTeX."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from mmadapt.collect.consistency import count_shots
from mmadapt.collect.notes import MIXED, of_rules
from mmadapt.collect.table import AVERAGE, Cell, Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#",
    "$": r"\$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "↑": r"$\uparrow$",
    "↓": r"$\downarrow$", "→": r"$\to$", "†": r"$\dagger$", "–": "--", "<": r"$<$", ">": r"$>$", "|": r"$|$",
}  # fmt: skip


def caption(table: Table) -> str:
    """Return what a reader must know to use the numbers."""
    metric = table.metric
    if table.data == AVERAGE or (table.data is None and len(table.data_sets) > 1):
        where = f", mean over {len(table.data_sets)} data sets ({', '.join(table.data_sets)})"
        where = where if table.data else f" by data set; {AVERAGE}{where}"
    else:
        where = f" on {table.data or table.data_sets[0]}"
    at = f", {count_shots(table.shots)}" if table.shots is not None else ""
    if table.n < 2:
        spread = "n = 1 seed, no standard deviation"
    else:
        spread = f"mean ± sample standard deviation (ddof = 1) over n = {table.n} seeds"
        if any(cell.n < table.n for cell in table.cells.values()):
            spread += ", or over (n) where given"
    return (
        f"{metric.label} ({metric.unit}, {metric.arrow}){where}{at}; scored set: {table.scored}; "
        f"protocol: {table.protocol}, version {table.version}; CLIP: {table.clip}; {spread}; "
        f"selection: {of_rules(table.rules)}."
    )


def display(cell: Cell, table: Table) -> tuple[str, str]:
    """Return a cell as text, and its marks (``*`` uncommitted changes, ``†`` mixed configurations)."""
    digits = table.metric.digits
    text = f"{cell.mean:.{digits}f}"
    if cell.std is not None and math.isfinite(cell.std):
        text += f" ± {cell.std:.{digits}f}"
    if cell.n < table.n:
        text += f" ({cell.n})"
    return text, "*" * cell.dirty + MIXED * cell.mixed


def to_markdown(tables: Iterable[Table]) -> str:
    """Return the tables as aligned Markdown, each with its caption above and its notes below."""
    blocks = []
    for table in tables:
        grid = [_header(table)]
        for method in table.methods:
            row = [method]
            for column in table.columns:
                text, marks = _shown(table, method, column)
                bold = method in table.best(column)
                row.append((f"**{text}**" if bold else text) + marks.replace("*", r"\*"))
            grid.append([field.replace("|", r"\|") for field in row])
        widths = [max(3, *(len(row[i]) for row in grid)) for i in range(len(grid[0]))]
        lines = ["| " + " | ".join(_pad(row, widths)) + " |" for row in grid]
        rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
        lines.insert(1, "| " + " | ".join(rule) + " |")
        parts = [caption(table), "\n".join(lines)]
        if table.notes:
            parts.append("\n".join("- " + note.replace("*", r"\*") for note in table.notes))
        blocks.append("\n\n".join(parts))
    return "\n\n".join(blocks) + "\n"


def to_latex(tables: Iterable[Table]) -> str:
    """Return the tables as LaTeX for the booktabs package."""
    blocks = []
    for table in tables:
        lines = [r"\begin{table}", r"\centering", rf"\caption{{{escape_latex(caption(table))}}}"]
        lines += [rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}", r"\toprule"]
        lines += [" & ".join(map(escape_latex, _header(table))) + r" \\", r"\midrule"]
        for method in table.methods:
            row = [escape_latex(method)]
            for column in table.columns:
                text, marks = _shown(table, method, column)
                text = escape_latex(text)
                text = rf"\textbf{{{text}}}" if method in table.best(column) else text
                marks = marks.replace(MIXED, r"\dagger")
                row.append(text + (f"$^{{{marks}}}$" if marks else ""))
            lines.append(" & ".join(row) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}"]
        lines += [rf"\par\footnotesize {escape_latex(note)}" for note in table.notes]
        blocks.append("\n".join([*lines, r"\end{table}"]))
    return "% Needs \\usepackage{booktabs}.\n" + "\n\n".join(blocks) + "\n"


def escape_latex(text: str) -> str:
    """Return text that LaTeX prints as it stands."""
    return "".join(_LATEX.get(character, character) for character in text)


def _header(table: Table) -> list[str]:
    metric = table.metric
    columns = [count_shots(c) if isinstance(c, int) else c for c in table.columns]
    return [f"{metric.name} ({metric.unit}) {metric.arrow}", *columns]


def _shown(table: Table, method: str, column: str | int) -> tuple[str, str]:
    cell = table.cells.get((method, column))
    return display(cell, table) if cell else ("–", "")


def _pad(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [
        row[0].ljust(widths[0]),
        *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True)),
    ]
