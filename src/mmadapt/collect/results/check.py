"""Find the holes of a grid of runs, and the commands that fill them."""

from __future__ import annotations

import shlex
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mmadapt.collect.results.load import Failure, Filter, Run, require_known
from mmadapt.collect.results.order import METHOD_ORDER, sort_data, sort_names
from mmadapt.errors import UserError
from mmadapt.results import RunKey

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Axes = tuple[tuple[str, ...], tuple[str, ...], tuple[int, ...], tuple[int, ...]]
"""Data sets, methods, shots and seeds: a box of runs."""


@dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes:
        finished: Number of finished runs in the grid.
        missing: Runs of the grid without a result.
        failures: Runs that left a note of their failure.
        commands: Commands that run exactly the missing runs.
    """

    finished: int
    missing: tuple[RunKey, ...]
    failures: tuple[Failure, ...]
    commands: tuple[str, ...]

    def __str__(self) -> str:
        """Return the report; everything but the commands is a shell comment."""
        failed = [f"# failed: {failure.path}: {failure.error}" for failure in self.failures]
        if not self.missing:
            return "\n".join([*failed, f"complete: {self.finished} runs"])
        total = self.finished + len(self.missing)
        return "\n".join([f"# {len(self.missing)} of {total} runs are missing", *failed, *self.commands])


def check(runs: Iterable[Run], failures: Iterable[Failure] = (), wanted: Filter | None = None) -> Report:
    """Compare the finished runs with the full grid of each protocol and backbone.

    The grid is methods × data sets × shots × seeds. An axis that ``wanted`` leaves open takes every value
    that occurs in a finished or failed run. 0 shots are only expected of methods that have run with 0 shots,
    and other shots are not expected of a method that has run with nothing else.
    """
    wanted, runs, failures = wanted or Filter(), list(runs), list(failures)
    done = [run.key for run in runs]
    tried = [*done, *(failure.key for failure in failures if failure.key)]
    for name in ("protocol", "clip"):
        for value in getattr(wanted, name):
            require_known(name, value, sorted({getattr(key, name) for key in tried}))
    scope = Filter(protocol=wanted.protocol, clip=wanted.clip)
    groups: dict[tuple[str, str], list[RunKey]] = defaultdict(list)
    for key in filter(scope.admits, tried):
        groups[key.protocol, key.clip].append(key)
    have = {replace(key, tag="") for key in done}
    finished = 0
    missing: list[RunKey] = []
    for (protocol, clip), keys in sorted(groups.items()):
        tags = _tags(keys)
        for method, data, shots, seed in _grid(keys, wanted):
            key = RunKey("", protocol, clip, data, method, shots, seed)
            if key in have:
                finished += 1
            else:
                tag = tags.get((method, data)) or tags.get((method,)) or tags[()]
                missing.append(replace(key, tag=tag))
    if not finished and not missing:
        raise UserError("The grid to check is empty. Relax a filter, or run something first.")
    listed = [failure for failure in failures if failure.key is None or wanted.admits(failure.key)]
    return Report(finished, tuple(missing), tuple(listed), tuple(commands(missing, _spellings(runs))))


Spelling = tuple[str, tuple[str, ...]]
"""How an option was typed: the name of its YAML, and the overrides below it (``data.root=…``)."""


def commands(
    missing: Iterable[RunKey], spellings: Mapping[tuple[str, str], Spelling] | None = None
) -> list[str]:
    """Return commands that run every missing run once and nothing else.

    Args:
        missing: The runs.
        spellings: How a finished run of the same data set or backbone was typed, by group and name. The name
            in the key is not always that of a YAML: `data=folder` is called after its folder.
    """
    spellings = spellings or {}
    boxes: dict[tuple[str, ...], list[Axes]] = defaultdict(list)
    for key in missing:
        clip, clip_words = spellings.get(("clip", key.clip), (key.clip, ()))
        data, data_words = spellings.get(("data", key.data), (key.data, ()))
        box = ((data,), (key.method,), (key.shots,), (key.seed,))
        where = (f"tag={key.tag}", f"protocol={key.protocol}", f"clip={clip}", *clip_words, *data_words)
        boxes[where].append(box)
    return [_command(where, box) for where, found in boxes.items() for box in _merge(found)]


def _spellings(runs: Iterable[Run]) -> dict[tuple[str, str], Spelling]:
    found: dict[tuple[str, str], Spelling] = {}
    for run in runs:
        choices, typed = run.result.provenance.get("choices"), run.result.provenance.get("overrides")
        if not isinstance(choices, dict) or not isinstance(typed, list):
            continue
        for group, name in (("data", run.key.data), ("clip", run.key.clip)):
            words = tuple(word for word in typed if word.lstrip("+").startswith(f"{group}."))
            found.setdefault((group, name), (str(choices.get(group, name)), words))
    return found


def _grid(keys: Sequence[RunKey], wanted: Filter) -> list[tuple[str, str, int, int]]:
    methods = wanted.method or sort_names({key.method for key in keys}, METHOD_ORDER)
    data_sets = wanted.data or sort_data({key.data for key in keys})
    all_shots = wanted.shots or sorted({key.shots for key in keys})
    seeds = wanted.seed or sorted({key.seed for key in keys})
    cells = []
    for method in methods:
        own = {key.shots for key in keys if key.method == method}
        zero = 0 in own or (not own and 0 in wanted.shots)
        expected = [shots for shots in all_shots if (own != {0} if shots else zero)]
        cells += [(method, data, shots, seed) for data in data_sets for shots in expected for seed in seeds]
    return cells


def _tags(keys: Sequence[RunKey]) -> dict[tuple[str, ...], str]:
    """Return the tag by method and data set, by method, and of all, so that a method's runs stay together."""
    tags: dict[tuple[str, ...], str] = {}
    for key in keys:
        for related in ((key.method, key.data), (key.method,), ()):
            tags.setdefault(related, key.tag)
    return tags


def _merge(boxes: list[Axes]) -> list[Axes]:
    """Unite boxes that are equal in all axes but one: seeds first, then shots, data sets and methods."""
    for axis in (3, 2, 0, 1):
        united: dict[tuple[object, ...], list[Axes]] = defaultdict(list)
        for box in boxes:
            united[box[:axis] + box[axis + 1 :]].append(box)
        boxes = []
        for alike in united.values():
            values = tuple(value for box in alike for value in box[axis])
            boxes.append((*alike[0][:axis], values, *alike[0][axis + 1 :]))  # type: ignore[arg-type]
    return boxes


def _command(where: tuple[str, ...], box: Axes) -> str:
    names = ("data", "method", "shots", "seed")
    words = [f"{name}={','.join(map(str, values))}" for name, values in zip(names, box, strict=True)]
    sweep = ["-m"] if any(len(values) > 1 for values in box) else []
    return shlex.join(["python", "-m", "mmadapt", *sweep, *where, *words])
