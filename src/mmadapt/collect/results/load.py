"""Find and read the results, and the notes of failed runs, below one or more folders."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmadapt.errors import UserError, did_you_mean
from mmadapt.results import FAILURE_FILE, RESULT_FILE, Result, RunKey, Score

if TYPE_CHECKING:
    from collections.abc import Iterable

_RUN_FOLDER = re.compile(
    r"(?P<tag>[^/]+)/(?P<protocol>[^/]+)/(?P<clip>[^/]+)/(?P<data>[^/]+)/(?P<method>[^/]+)"
    r"/(?P<shots>\d+)shots?/seed(?P<seed>\d+)$"
)
_TYPES: dict[str, Any] = {"str": str, "Classifier": str, "int": int, "float": (int, float)}
_KEY = {field.name: _TYPES[str(field.type)] for field in fields(RunKey)}
_SCORE = {field.name: _TYPES[str(field.type)] for field in fields(Score)}


@dataclass(frozen=True)
class Run:
    """A result and the folder it was read from."""

    path: Path
    result: Result

    @property
    def key(self) -> RunKey:
        """Identity of the run."""
        return self.result.key

    @property
    def cell(self) -> tuple[str, str, str, str, int]:
        """What is averaged over seeds: protocol, clip, data, method and shots."""
        key = self.result.key
        return key.protocol, key.clip, key.data, key.method, key.shots

    @property
    def dirty(self) -> bool:
        """Whether the code had uncommitted changes."""
        git = self.result.provenance.get("git")
        return isinstance(git, dict) and git.get("dirty") is True


def label_by_tag(run: Run) -> Run:
    """Return the run under a method name that tells its tag apart: ``xmadapter [main]``."""
    key = replace(run.key, method=f"{run.key.method} [{run.key.tag}]")
    return replace(run, result=replace(run.result, key=key))


@dataclass(frozen=True)
class Failure:
    """A run that left ``failed.json``; ``key`` is None if its folder does not tell which run it was."""

    path: Path
    key: RunKey | None
    error: str


@dataclass(frozen=True)
class Filter:
    """Which runs to look at; an empty tuple admits every value."""

    protocol: tuple[str, ...] = ()
    clip: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    method: tuple[str, ...] = ()
    shots: tuple[int, ...] = ()
    seed: tuple[int, ...] = ()

    def admits(self, key: RunKey) -> bool:
        """Return whether a run passes every part of the filter."""
        return all(not wanted or getattr(key, name) in wanted for name, wanted in vars(self).items())

    def select(self, runs: Iterable[Run]) -> list[Run]:
        """Return the admitted runs.

        Raises:
            UserError: If a requested value occurs in no run, or no run has the requested combination.
        """
        runs = list(runs)
        for name, wanted in vars(self).items():
            found = sorted({getattr(run.key, name) for run in runs})
            for value in wanted:
                require_known(name, value, found)
        selected = [run for run in runs if self.admits(run.key)]
        if runs and not selected:
            asked = " ".join(
                f"{name}={','.join(map(str, wanted))}" for name, wanted in vars(self).items() if wanted
            )
            raise UserError(f"None of the {len(runs)} results has the combination {asked}. Relax a filter.")
        return selected


def require_known(what: str, value: str | int, found: Iterable[str | int]) -> None:
    """Raise a `UserError` with the nearest name if a requested value has no results."""
    names = [str(name) for name in found]
    if str(value) not in names:
        hint = did_you_mean(str(value), names)
        raise UserError(f"No result has {what} {str(value)!r}{hint}. Found: {', '.join(names)}.")


def load_results(roots: str | Path | Iterable[str | Path]) -> list[Run]:
    """Read every ``result.json`` below one or more folders, in the order of their paths.

    Raises:
        UserError: If a folder does not exist, holds no result, or a file cannot be read as a result.
    """
    folders = [Path(roots)] if isinstance(roots, str | Path) else [Path(root) for root in roots]
    runs, _ = scan(folders)
    if not runs:
        raise nothing_found(folders)
    return runs


def nothing_found(roots: Iterable[Path]) -> UserError:
    """Return the error for folders without results."""
    where = ", ".join(map(str, roots))
    return UserError(
        f"No {RESULT_FILE} below {where}. Run something first (python -m mmadapt method=zero_shot) "
        "or name the folder of a campaign (python -m mmadapt.collect multirun/<tag>)."
    )


def scan(roots: Iterable[Path]) -> tuple[list[Run], list[Failure]]:
    """Read the results and failures below the folders; links to folders inside them are not followed."""
    runs: list[Run] = []
    failures: list[Failure] = []
    seen: set[str] = set()
    for root in roots:
        if not root.is_dir():
            raise UserError(
                f"No folder {root} (looked from {Path.cwd()}). Name the folder of a campaign: "
                "python -m mmadapt.collect multirun/<tag>."
            )
        for folder, subfolders, files in os.walk(root, onerror=_unreadable):
            subfolders.sort()
            path, real = Path(folder), os.path.realpath(folder)
            if real in seen:
                continue
            seen.add(real)
            if RESULT_FILE in files and (result := _read(path)):
                runs.append(Run(path, result))
            if FAILURE_FILE in files:
                failures.append(_read_failure(path))
    return runs, failures


def _unreadable(error: OSError) -> None:
    raise UserError(f"Cannot read {error.filename}: {error.strerror}.") from error


def _read(folder: Path) -> Result | None:
    result = Result.read(folder)
    if result and not _fits(result):
        raise UserError(
            f"{folder / RESULT_FILE} is not a result file of mmadapt: a value has the wrong type. "
            "Run the job again."
        )
    return result


def _fits(result: Result) -> bool:
    """Return whether the values have the types that their fields announce."""
    parts = [(result.key, _KEY), *((score, _SCORE) for score in result.scores.values())]
    return (
        all(isinstance(getattr(part, name), kind) for part, kinds in parts for name, kind in kinds.items())
        and isinstance(result.protocol, int)
        and all(
            isinstance(part, dict)
            for part in (result.config, result.selection, result.provenance, result.cost)
        )
        and all(isinstance(number, int | float) for number in result.cost.values())
    )


def _read_failure(folder: Path) -> Failure:
    try:
        raw: Any = json.loads((folder / FAILURE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raw = {"error": f"{FAILURE_FILE} cannot be read ({error})"}
    raw = raw if isinstance(raw, dict) else {}
    text = str(raw.get("error") or "").strip() or "no error recorded"
    return Failure(folder, _failed_key(folder, raw), text.splitlines()[0].strip())


def _failed_key(folder: Path, raw: dict[str, Any]) -> RunKey | None:
    match = _RUN_FOLDER.search(folder.resolve().as_posix())
    if not match:
        return None
    fields: dict[str, Any] = match.groupdict()
    config = raw.get("config")
    if isinstance(config, dict) and isinstance(config.get("tag"), str):
        fields["tag"] = config["tag"]  # a tag may be several folders deep
    return RunKey(**{**fields, "shots": int(fields["shots"]), "seed": int(fields["seed"])})
