"""All results of a campaign on one self-contained HTML page (``python -m mmadapt.collect --html FILE``).

Importing it costs neither torch nor Matplotlib.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mmadapt.collect.output import write_file
from mmadapt.errors import UserError
from mmadapt.report.page import render

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmadapt.collect.load import Failure, Run

__all__ = ["render", "write_report"]


def write_report(
    path: Path, runs: Sequence[Run], failures: Sequence[Failure] = (), *, allow_mixed: bool = False
) -> None:
    """Write the page so that a reader, or a crash, sees either the old file or the whole new one.

    Raises:
        UserError: If the path is a folder or cannot be written, or the results do not belong together.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder. Give the name of a file, for example {path / 'report.html'}.")
    write_file(path, render(runs, failures, allow_mixed=allow_mixed))
