"""Results as one self-contained HTML page."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import TYPE_CHECKING

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from mmadapt import __version__
from mmadapt.collect.table import METHOD_ORDER, sort_names
from mmadapt.report import details as behind
from mmadapt.report import overview, rows
from mmadapt.report.model import build
from mmadapt.report.svg import MARKERS
from mmadapt.report.views import block_view, numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmadapt.collect.load import Failure, Run

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
    details = {position: found for position, run in enumerate(runs) if (found := behind.read(run.path))}
    folder = files("mmadapt.report") / "templates"
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
    positions = {id(run): position for position, run in enumerate(runs)}
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
        blocks=[block_view(block, blocks, index, details, positions) for block in blocks],
        data=Markup(rows.to_json(runs, details)),
        count=len(runs),
    )
    return page + "\n"
