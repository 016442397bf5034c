"""Tables and figures as a pure function of result files.

From a notebook::

    from mmadapt.collect import load_results, summarise, to_frame

    tables = summarise(load_results("multirun/main"))
    to_frame(tables)
"""

from mmadapt.collect.against import against
from mmadapt.collect.check import check
from mmadapt.collect.compare import compare
from mmadapt.collect.grid import Grid
from mmadapt.collect.load import Filter, load_results
from mmadapt.collect.output import records, to_csv, to_frame, to_json
from mmadapt.collect.published import published
from mmadapt.collect.render import to_latex, to_markdown
from mmadapt.collect.summary import summarise
from mmadapt.collect.table import AVERAGE, METRICS, Cell, Metric, Table

__all__ = [
    "AVERAGE",
    "METRICS",
    "Cell",
    "Filter",
    "Grid",
    "Metric",
    "Table",
    "against",
    "check",
    "compare",
    "load_results",
    "published",
    "records",
    "summarise",
    "to_csv",
    "to_frame",
    "to_json",
    "to_latex",
    "to_markdown",
]
