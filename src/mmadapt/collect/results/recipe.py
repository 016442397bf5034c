"""The table that belongs to a recipe: what ``conf/experiment/<name>.yaml`` says of its report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mmadapt.config.paths import CONF_DIR, options
from mmadapt.errors import UserError, did_you_mean

KEYS = (
    "view",
    "metric",
    "set",
    "methods",
    "data",
    "shots",
    "seeds",
    "protocol",
    "clip",
    "by_tag",
    "compare",
    "against",
)
"""What ``report`` may hold: the options of the command line, with underscores."""


@dataclass(frozen=True)
class Recipe:
    """A recipe as far as its table needs it: the folder of its results, and the options of its report as typed."""

    path: Path
    folder: str
    words: tuple[str, ...]


def read_recipe(name: str, folder: Path | None = None) -> Recipe:
    """Read a recipe without composing its configuration.

    Raises:
        UserError: If there is no such recipe, or its ``tag`` or ``report`` make no sense.
    """
    folder = folder or CONF_DIR / "experiment"
    path = folder / f"{name}.yaml"
    names = options(folder)
    if name not in names:
        raise UserError(
            f"No experiment {name!r}{did_you_mean(name, names)} in {folder}. There are: {', '.join(names) or 'none'}."
        )
    try:
        raw: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"Cannot read {path}: {error}.") from error
    raw = raw if isinstance(raw, dict) else {}
    tag, report = raw.get("tag"), raw.get("report") or {}
    if not isinstance(tag, str) or not _place(tag):
        raise UserError(f"{path} has no tag to find its results by. Add a line such as tag: {name}.")
    if not isinstance(report, dict):
        raise UserError(f"{path}: report is {report!r}, not options such as {{view: base-new, shots: [16]}}.")
    return Recipe(path, _place(tag), tuple(_words(report, path)))


def _place(tag: str) -> str:
    """Return the folder that all runs of a tag share: ``study`` for ``study/${method.fusion}-x``."""
    head, interpolation, _ = tag.partition("${")
    return head.rpartition("/")[0] if interpolation else head.strip("/")


def _words(report: dict[Any, Any], path: Path) -> list[str]:
    words: list[str] = []
    for key, value in report.items():
        if key not in KEYS:
            raise UserError(
                f"{path}: report has no option {key!r}{did_you_mean(str(key), KEYS)}. Accepted: {', '.join(KEYS)}."
            )
        flag = f"--{key.replace('_', '-')}"
        values = [str(part) for part in value] if isinstance(value, list) else [str(value)]
        if isinstance(value, dict) or (key == "by_tag") != isinstance(value, bool):
            raise UserError(f"{path}: report.{key} is {value!r}; {flag} does not take that.")
        if key == "by_tag":
            words += [flag] if value else []
        elif key == "compare":
            words += [flag, *values]
        elif value is not None and values:
            words.append(f"{flag}={','.join(values)}")
    return words
