"""The options of ``python -m mmadapt.collect``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mmadapt.collect.results.recipe import Recipe, read_recipe
from mmadapt.collect.tables import output, render
from mmadapt.collect.tables.arrange import VIEWS
from mmadapt.collect.tables.table import METRICS
from mmadapt.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

RESULTS = Path("multirun")
DEFAULT_ROOT = RESULTS / "main"
FORMATS = {"md": render.to_markdown, "csv": output.to_csv, "latex": render.to_latex, "json": output.to_json}
SUFFIXES = {".csv": "csv", ".tex": "latex", ".json": "json"}

EXAMPLES = """\
examples:
  python -m mmadapt.collect                                    the tables of the campaign "main"
  python -m mmadapt.collect multirun/main multirun/ablation    two campaigns in the same tables
  python -m mmadapt.collect --view methods-by-data --shots 16  data sets in columns, with their average
  python -m mmadapt.collect --experiment NAME                  the table of conf/experiment/NAME.yaml
  python -m mmadapt.collect --compare maple coop --shots 16    paired differences over the same seeds
  python -m mmadapt.collect --against published --clip rn50    ours beside the papers' numbers
  python -m mmadapt.collect --published --methods comma        the papers' numbers alone
  python -m mmadapt.collect --methods zero_shot,coop --metric ece --out ece.tex
  python -m mmadapt.collect --plot figures                     PNG and SVG of all that the runs can show
  python -m mmadapt.collect --html report.html                 one page to read, sort, filter and send
  python -m mmadapt.collect --check --seeds 1,2,3              missing runs, and the commands that run them

Values are the mean ± sample standard deviation (ddof = 1) over seeds; (n) marks cells with fewer seeds than
the table's largest, – missing cells, * uncommitted code, † mixed configurations, ‡ sliced logits, § the text
side alone. Methods are ordered zero_shot, linear_probe, then alphabetically; data sets as in the CoOp paper. A
cell with a NaN is nan. The average is taken over data sets (or targets) per seed, then over seeds, and only if
every data set has every seed; the average H is of the averages of base and new.

exit status: 0 done (--check: complete), 1 a problem with the results (--check: holes), 2 wrong usage
"""


def read_options(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; those of a recipe's report count where the command line says nothing.

    ``roots`` is filled in. ``relaxed`` names the filters that come from a recipe: unlike a typed value, one
    without results yet is no mistake.

    Raises:
        UserError: If the recipe does not exist or its report has options that do not exist.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    if options.html and (options.check or options.out or options.plot or options.format or options.compare):
        parser.error(
            "--html writes one page of everything: leave out --check, --out, --plot, --compare and --format"
        )
    options.relaxed = ()
    if options.experiment:
        recipe = read_recipe(options.experiment)
        typed, options = options, parser.parse_args(argv, _of_recipe(recipe))
        names = ("methods", "data", "shots", "seeds", "set", "protocol", "clip")
        options.relaxed = tuple(name for name in names if getattr(options, name) and not getattr(typed, name))
        options.roots = [root / recipe.folder for root in typed.roots or [RESULTS]]
    elif not options.roots:
        options.roots = [DEFAULT_ROOT]
    return options


def _of_recipe(recipe: Recipe) -> argparse.Namespace:
    try:
        return _parser(exit_on_error=False).parse_args(recipe.words)
    except argparse.ArgumentError as error:
        raise UserError(f"{recipe.path}: report: {error}.") from error


def _names(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise argparse.ArgumentTypeError("expected names separated by commas")
    return names


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(name) for name in _names(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list such as 1,2,4") from None


def _figure_formats(text: str) -> tuple[str, ...]:
    names = _names(text)
    if not set(names) <= {"png", "svg", "pdf"}:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list out of png,svg,pdf")
    return names


def _parser(*, exit_on_error: bool = True) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mmadapt.collect",
        description="Tables and figures from the result.json files of finished runs.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        exit_on_error=exit_on_error,
    )
    add = parser.add_argument
    add("roots", nargs="*", type=Path, default=[], metavar="ROOT", help=f"default: {DEFAULT_ROOT}")
    show = parser.add_argument_group("what to show").add_argument
    views = "; ".join(f"{name}: {view.meaning}" for name, view in VIEWS.items())
    show(
        "--experiment",
        metavar="NAME",
        help="the results of a recipe, with the options of its report; ROOT/<tag>",
    )
    show("--view", choices=tuple(VIEWS), help=f"{views}. Default: what suits the protocol of the runs")
    show("--metric", choices=tuple(METRICS), default="top1", help="default: top1")
    show(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="instead: A − B over the seeds of both, with an interval",
    )
    show("--against", choices=("published",), help="also show the papers' numbers beside ours")
    show("--published", action="store_true", help="instead: the papers' numbers alone; no runs needed")
    show("--allow-mixed", action="store_true", help="accept different configurations in a cell, with a note")
    show("--by-tag", action="store_true", help="a row for each method and tag: variants, ablations")
    only = parser.add_argument_group("which results (comma-separated)").add_argument
    only("--set", type=_names, default=(), metavar="A,B", help="scored sets: test, base, new, or targets")
    only("--methods", type=_names, default=(), metavar="A,B", help="methods, in this order")
    only("--data", type=_names, default=(), metavar="A,B", help="data sets; also what the average covers")
    only("--shots", type=_numbers, default=(), metavar="1,2")
    only("--seeds", type=_numbers, default=(), metavar="1,2")
    only("--protocol", type=_names, default=(), metavar="A,B")
    only("--clip", type=_names, default=(), metavar="A,B")
    write = parser.add_argument_group("output").add_argument
    write("--format", choices=tuple(FORMATS), help="default: by the suffix of --out, else md")
    write("--out", type=Path, metavar="FILE", help="write to a file instead of the terminal")
    write("--plot", type=Path, metavar="DIR", help="also draw figures of what the runs can show")
    write(
        "--figure-format",
        "--plot-formats",
        type=_figure_formats,
        default=("png", "svg"),
        metavar="A,B",
        help="out of png,svg,pdf; default: png,svg",
    )
    write("--html", type=Path, metavar="FILE", help="no tables: everything on one self-contained page")
    write(
        "--check",
        action="store_true",
        help="no tables: list missing and failed runs (exit 1), or none (exit 0)",
    )
    return parser
