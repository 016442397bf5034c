"""Results as one self-contained HTML page."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import TYPE_CHECKING

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from mmadapt import __version__
from mmadapt.collect.page import overview, rows
from mmadapt.collect.page.model import build
from mmadapt.collect.page.svg import MARKERS
from mmadapt.collect.page.views import block_view, numbers
from mmadapt.collect.results import details as behind
from mmadapt.collect.results.order import METHOD_ORDER, sort_names
from mmadapt.collect.tables.output import write_file
from mmadapt.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mmadapt.collect.results.load import Failure, Run

_FILES = ("report.html.j2", "report.css", "report.js")


def render(runs: Sequence[Run], failures: Sequence[Failure] = (), *, allow_mixed: bool = False) -> str:
    """Return the page; it depends on the results alone and asks nothing of the network.

    Raises:
        UserError: If results do not belong together or a file of details cannot be read.
    """
    blocks = build(runs, allow_mixed=allow_mixed)
    runs = [run for block in blocks for run in block.runs]
    methods = sort_names({run.key.method for run in runs}, METHOD_ORDER)
    index = numbers(methods)
    details = {run.path: found for run in runs if (found := behind.read(run.path))}
    folder = files("mmadapt.collect.page") / "templates"
    text = {name: (folder / name).read_text(encoding="utf-8") for name in _FILES}
    script = text["report.js"].strip()
    environment = Environment(
        loader=DictLoader({"report.html.j2": text["report.html.j2"]}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    tags = sorted({run.key.tag for run in runs})
    page = environment.get_template("report.html.j2").render(
        title=", ".join(tags),
        version=__version__,
        style=Markup(text["report.css"].strip()),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        markers=MARKERS,
        facts=overview.facts(runs, failures),
        warnings=overview.warnings(runs, failures),
        glance=overview.glance(blocks, methods),
        index=index,
        blocks=[block_view(block, blocks, index, details) for block in blocks],
        data=Markup(rows.to_json(runs, details)),
        count=len(runs),
    )
    return page + "\n"


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
