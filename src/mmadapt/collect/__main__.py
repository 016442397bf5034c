"""Command line of the tables: ``python -m mmadapt.collect``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mmadapt.collect import output, render
from mmadapt.collect.check import check
from mmadapt.collect.load import Filter, label_by_tag, nothing_found, scan
from mmadapt.collect.summary import VIEWS, summarise
from mmadapt.collect.table import METRICS
from mmadapt.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_ROOT = Path("multirun/main")
FORMATS = {"md": render.to_markdown, "csv": output.to_csv, "latex": render.to_latex, "json": output.to_json}
SUFFIXES = {".csv": "csv", ".tex": "latex", ".json": "json"}

EXAMPLES = """\
examples:
  python -m mmadapt.collect                                    all tables of the campaign "main"
  python -m mmadapt.collect multirun/main multirun/ablation    two campaigns in the same tables
  python -m mmadapt.collect --view methods-by-data --shots 16  data sets in columns, with their average
  python -m mmadapt.collect --methods zero_shot,coop --metric ece --out ece.tex
  python -m mmadapt.collect --plot figures                     PNG and SVG, one per data set and average
  python -m mmadapt.collect --check --seeds 1,2,3              missing runs, and the commands that run them

Values are the mean ± sample standard deviation (ddof = 1) over seeds; (n) marks cells with fewer seeds than
the table's largest, – missing cells, * uncommitted code. Methods are ordered zero_shot, linear_probe, then
alphabetically; data sets as in the CoOp paper. A cell with a NaN is nan. The average is taken over data sets
per seed, then over seeds, and only if every data set has every seed.

exit status: 0 done (--check: complete), 1 a problem with the results (--check: holes), 2 wrong usage
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        return _collect(arguments)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _collect(arguments: argparse.Namespace) -> int:
    roots: list[Path] = arguments.roots
    wanted = Filter(
        protocol=arguments.protocol,
        clip=arguments.clip,
        data=arguments.data,
        method=arguments.methods,
        shots=arguments.shots,
        seed=arguments.seeds,
    )
    runs, failures = scan(roots)
    if not runs and not (arguments.check and failures):
        raise nothing_found(roots)
    if arguments.check:
        report = check(runs, failures, wanted)
        _emit(f"{report}\n", arguments.out)
        return 1 if report.missing else 0
    selected = list(wanted.select(runs))
    if arguments.by_tag:
        selected = [label_by_tag(run) for run in selected]
    options = {
        "metric": arguments.metric,
        "sets": arguments.set,
        "methods": arguments.methods,
        "allow_mixed": arguments.allow_mixed,
    }
    tables = summarise(selected, view=arguments.view, **options)
    if arguments.plot:
        from mmadapt.collect.plot import write_figures

        by_shots = tables if arguments.view == "methods-by-shots" else summarise(selected, **options)
        paths = write_figures(by_shots, arguments.plot, arguments.plot_formats)
        print(f"{len(paths)} figures in {arguments.plot}", file=sys.stderr)
    chosen = arguments.format or SUFFIXES.get(arguments.out.suffix if arguments.out else "", "md")
    _emit(FORMATS[chosen](tables), arguments.out)
    if chosen in ("csv", "json"):
        for note in dict.fromkeys(note for table in tables for note in table.notes):
            print(note, file=sys.stderr)
    if failures:
        print(f"runs failed: {len(failures)} (--check lists them)", file=sys.stderr)
    return 0


def _emit(text: str, out: Path | None) -> None:
    if out:
        output.write_file(out, text)
        print(f"wrote {out}", file=sys.stderr)
    else:
        sys.stdout.write(text)
        sys.stdout.flush()


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


def _plot_formats(text: str) -> tuple[str, ...]:
    names = _names(text)
    if not set(names) <= {"png", "svg", "pdf"}:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list out of png,svg,pdf")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mmadapt.collect",
        description="Tables and figures from the result.json files of finished runs.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "roots", nargs="*", type=Path, default=[DEFAULT_ROOT], metavar="ROOT", help=f"default: {DEFAULT_ROOT}"
    )
    show = parser.add_argument_group("what to show").add_argument
    show(
        "--view",
        choices=tuple(VIEWS),
        help="default: the one that suits the protocol of the runs",
    )
    show("--metric", choices=tuple(METRICS), default="top1", help="default: top1")
    show("--allow-mixed", action="store_true", help="accept different configurations in a cell, with a note")
    show("--by-tag", action="store_true", help="a row for each method and tag: variants, ablations")
    only = parser.add_argument_group("which results (comma-separated)").add_argument
    only("--set", type=_names, default=(), metavar="A,B", help="scored sets, such as test or base,new")
    only("--methods", type=_names, default=(), metavar="A,B", help="methods, in this order")
    only("--data", type=_names, default=(), metavar="A,B", help="data sets; also what the average covers")
    only("--shots", type=_numbers, default=(), metavar="1,2")
    only("--seeds", type=_numbers, default=(), metavar="1,2")
    only("--protocol", type=_names, default=(), metavar="A,B")
    only("--clip", type=_names, default=(), metavar="A,B")
    write = parser.add_argument_group("output").add_argument
    write("--format", choices=tuple(FORMATS), help="default: by the suffix of --out, else md")
    write("--out", type=Path, metavar="FILE", help="write to a file instead of the terminal")
    write("--plot", type=Path, metavar="DIR", help="also draw the metric against shots")
    write(
        "--plot-formats", type=_plot_formats, default=("png", "svg"), metavar="A,B", help="out of png,svg,pdf"
    )
    write(
        "--check",
        action="store_true",
        help="no tables: list missing and failed runs (exit 1), or none (exit 0)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
