"""Tables and figures as a pure function of result files.

From a notebook::

    from mmadapt.collect import load_results, summarise, to_frame

    tables = summarise(load_results("multirun/main"))
    to_frame(tables)
"""

from mmadapt.collect.results.check import check
from mmadapt.collect.results.load import Filter, load_results
from mmadapt.collect.tables.against import against
from mmadapt.collect.tables.arrange import summarise
from mmadapt.collect.tables.compare import compare
from mmadapt.collect.tables.output import records, to_csv, to_frame, to_json
from mmadapt.collect.tables.published import published
from mmadapt.collect.tables.render import to_latex, to_markdown
from mmadapt.collect.tables.table import AVERAGE, METRICS, Cell, Grid, Metric, Table

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
