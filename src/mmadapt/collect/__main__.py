"""Command line of the tables: ``python -m mmadapt.collect``."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from mmadapt.collect.options import FORMATS, SUFFIXES, read_options
from mmadapt.collect.results.check import check
from mmadapt.collect.results.load import Filter, Run, label_by_tag, nothing_found, require_known, scan
from mmadapt.collect.tables import output
from mmadapt.collect.tables.against import against
from mmadapt.collect.tables.arrange import summarise
from mmadapt.collect.tables.compare import compare
from mmadapt.collect.tables.published import list_published, published
from mmadapt.errors import UserError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

    from mmadapt.collect.tables.table import Grid, Table

_FIELDS = {
    "protocol": "protocol",
    "clip": "clip",
    "data": "data",
    "methods": "method",
    "shots": "shots",
    "seeds": "seed",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    try:
        return _collect(read_options(argv))
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _collect(options: argparse.Namespace) -> int:
    if options.published:
        _emit_tables(list_published(published(_filter(options), options.set)), options)
        return 0
    runs, failures = scan(options.roots)
    if not runs and not (options.check and failures):
        raise nothing_found(options.roots)
    if options.check:
        report = check(runs, failures, _filter(options))
        _emit(f"{report}\n", options.out)
        return 1 if report.missing else 0
    _relax(options, runs)
    selected = _filter(options).select(runs)
    if options.by_tag:
        selected = _label(selected, options)
    if options.html:
        from mmadapt.collect.page.page import write_report

        shown = [run for run in selected if not options.methods or run.key.method in options.methods]
        failures = [one for one in failures if one.key is None or _filter(options).admits(one.key)]
        write_report(options.html, shown, failures, allow_mixed=options.allow_mixed)
        print(f"wrote {options.html} ({options.html.stat().st_size / 1e6:.1f} MB)", file=sys.stderr)
        return 0
    _emit_tables(_tables(selected, options), options)
    if options.plot:  # after the tables, which are not to be lost with a figure
        from mmadapt.collect.figures.every import write_all

        paths = write_all(selected, options.plot, options.figure_format, **_arguments(options))
        print(f"{len(paths)} figures in {options.plot}", file=sys.stderr)
    if failures:
        print(f"runs failed: {len(failures)} (--check lists them)", file=sys.stderr)
    return 0


def _tables(runs: Sequence[Run], options: argparse.Namespace) -> Sequence[Table | Grid]:
    arguments = _arguments(options)
    view = options.view
    if options.compare:
        if view == "cost":
            raise UserError(
                "--compare takes the differences of scores, not of --view cost. Choose another view."
            )
        for name in options.compare:
            require_known("method", name, sorted({run.key.method for run in runs}))
        arguments["methods"] = tuple(options.compare)
        return compare(summarise(runs, view=view, fallback="methods-by-data", **arguments), *options.compare)
    tables = summarise(runs, view=view, **arguments)
    if not options.against:
        return tables
    ours = summarise(runs, fallback="methods-by-data", **{**arguments, "metric": "top1"})
    beside = against(ours, published(_filter(options), options.set))
    return [*tables, *beside] if _format(options) in ("md", "latex") else beside


def _arguments(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "metric": options.metric,
        "sets": options.set,
        "methods": options.methods,
        "allow_mixed": options.allow_mixed,
    }


def _filter(options: argparse.Namespace) -> Filter:
    return Filter(**{field: getattr(options, name) for name, field in _FIELDS.items()})


def _relax(options: argparse.Namespace, runs: Sequence[Run]) -> None:
    """Drop what a recipe asks for and no run has yet, and say so."""
    for name in options.relaxed:
        if name == "set":
            found = {scored for run in runs for scored in run.result.scores}
        else:
            found = {getattr(run.key, _FIELDS[name]) for run in runs}
        wanted = getattr(options, name)
        there = tuple(value for value in wanted if value in found)
        if there and there != wanted:  # with none of them there is nothing to show, which is an error
            setattr(options, name, there)
            absent = ", ".join(str(value) for value in wanted if value not in found)
            print(f"no results yet of {name}: {absent} (--check lists what is missing)", file=sys.stderr)


def _label(runs: Sequence[Run], options: argparse.Namespace) -> list[Run]:
    """Tell methods apart by their tags, and name all variants of a wanted method."""
    labelled = [label_by_tag(run) for run in runs]
    names = {
        name: None
        for method in options.methods
        for run, new in zip(runs, labelled, strict=True)
        if run.key.method == method
        for name in [new.key.method]
    }
    options.methods = tuple(names)
    return labelled


def _format(options: argparse.Namespace) -> str:
    return options.format or SUFFIXES.get(options.out.suffix if options.out else "", "md")


def _emit_tables(tables: Sequence[Table | Grid], options: argparse.Namespace) -> None:
    chosen = _format(options)
    _emit(FORMATS[chosen](tables), options.out)
    if chosen in ("csv", "json"):
        for note in dict.fromkeys(note for table in tables for note in table.notes):
            print(note, file=sys.stderr)


def _emit(text: str, out: Path | None) -> None:
    if out:
        output.write_file(out, text)
        print(f"wrote {out}", file=sys.stderr)
    else:
        sys.stdout.write(text)
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
