"""Command line of the published data sets: ``python -m mmadapt.data``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mmadapt.data.tools.catalogue import catalogue, data_root, listing_table, select
from mmadapt.data.tools.fetch import prepare
from mmadapt.errors import UserError
from mmadapt.results import write_json

EXAMPLES = """\
examples:
  python -m mmadapt.data list                         what is here, what it counts, under which licence
  python -m mmadapt.data prepare dtd eurosat          fetch split and images
  python -m mmadapt.data prepare ucf101 --mirror      fetch a third party's copy
  python -m mmadapt.data check dtd --decode           compare every file, open every image
  python -m mmadapt.data draw dtd --shots 16 --seed 1 --out dtd-16.json
  python -m mmadapt data=dtd data.draw=dtd-16.json    run on that draw

Data sets lie below $MMADAPT_DATA (or --root). Settings of a run, such as data.dir=/disk/dtd, may follow the
names of check and draw.

exit status: 0 done, 1 something is missing or wrong, 2 wrong usage
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        return _COMMANDS[arguments.command](arguments)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run the command again to go on", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _list(arguments: argparse.Namespace) -> int:
    print(listing_table(catalogue(arguments.root).values()))
    return 0


def _prepare(arguments: argparse.Namespace) -> int:
    entries = catalogue(arguments.root)
    failed = 0
    for entry in [select(entries, name) for name in arguments.names]:
        try:
            prepare(
                entry, mirror=arguments.mirror, split_only=arguments.split_only, keep=arguments.keep_archives
            )
        except UserError as error:
            print(error, file=sys.stderr)
            failed = 1
    return failed


def _check(arguments: argparse.Namespace) -> int:
    from mmadapt.data.tools.check import check

    entries = catalogue(arguments.root)
    overrides = [name for name in arguments.names if "=" in name]
    names = [select(entries, name).name for name in arguments.names if name not in overrides]
    names = names or [name for name, entry in entries.items() if entry.status() != "not found"]
    if not names:
        raise UserError(
            f"No data set was found in {data_root(arguments.root)}. See python -m mmadapt.data list."
        )
    return max([check(name, arguments.root, overrides, arguments.decode) for name in names])


def _draw(arguments: argparse.Namespace) -> int:
    from mmadapt.data.tools.check import build

    name = select(catalogue(arguments.root), arguments.name).name
    overrides = [f"shots={arguments.shots}", f"seed={arguments.seed}", *arguments.overrides]
    content = build(name, arguments.root, overrides).export_draw()
    if arguments.out is None:
        print(json.dumps(content, indent=1, ensure_ascii=False))
        return 0
    try:
        write_json(arguments.out, content)
    except OSError as error:
        raise UserError(f"{arguments.out} cannot be written: {error.strerror}.") from error
    sizes = f"{len(content['train'])} training and {len(content['val'])} validation images"
    print(f"{arguments.out}: {sizes}, sha256 {content['sha256']}", file=sys.stderr)
    return 0


_COMMANDS = {"list": _list, "prepare": _prepare, "check": _check, "draw": _draw}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mmadapt.data",
        description="The published data sets: what is here, how to get what is not, which images are drawn.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--root", type=Path, metavar="DIR", help="folder of all data sets; default: $MMADAPT_DATA"
    )

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text, parents=[common], allow_abbrev=False)

    command("list", "What exists, where, counts, licence, and how to get what is missing.")
    fetch = command("prepare", "Fetch split files and images, or explain how to.")
    fetch.add_argument("names", nargs="+", metavar="NAME")
    fetch.add_argument("--mirror", action="store_true", help="fetch images from a third party's copy")
    fetch.add_argument("--split-only", action="store_true", help="fetch the split file only")
    fetch.add_argument("--keep-archives", action="store_true", help="do not delete archives once unpacked")
    check = command("check", "Compare every expected file and count; without names, of all data sets found.")
    check.add_argument(
        "names", nargs="*", metavar="NAME", help="names, and settings such as data.dir=/disk/dtd"
    )
    check.add_argument("--decode", action="store_true", help="open every image")
    draw = command("draw", "Print the draw as JSON with relative paths and a hash.")
    draw.add_argument("name", metavar="NAME")
    draw.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings such as data.sampling=tip")
    draw.add_argument("--shots", type=int, default=16, help="default: 16")
    draw.add_argument("--seed", type=int, default=1, help="default: 1")
    draw.add_argument("--out", type=Path, metavar="FILE", help="write to a file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
