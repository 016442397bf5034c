"""Prompts around class names: single templates, the published ensembles, files of templates or of prompts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmadapt.errors import DataNotFoundError, UserError, did_you_mean, some
from mmadapt.files import read_json, read_lines

ENSEMBLES = ("imagenet7", "openai80", "openai")
"""Tip-Adapter's 7 and CLIP's 80 templates for ImageNet; CLIP's ensemble of the data set (data/prompts.md)."""

_ENSEMBLE_FILE = Path(__file__).resolve().parent.parent / "assets" / "ensembles.json"
_IMAGENET = ("imagenet", "imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r")


def parse_templates(templates: str | Sequence[str], data: str) -> tuple[tuple[str, ...], Path | None]:
    """Return templates, and the file of prompts written for each class if that is what was named.

    Args:
        templates: One template or several, an ensemble's name, a ``.txt`` file with one template per line, or
            a ``.json`` file ``{"class name": ["prompt", …]}``, as CuPL and APE have them.
        data: Name of the data set, for its ensemble and for messages.
    """
    prompt_file = None
    if isinstance(templates, str) and "{" not in templates:
        if templates.endswith(".json"):
            prompt_file, templates = _existing(templates), ("{}",)
        elif templates.endswith(".txt"):
            lines = read_lines(_existing(templates))
            templates = [line for line in lines if not line.startswith("#")]
        else:
            templates = _ensemble(templates, data)
    parsed = (templates,) if isinstance(templates, str) else tuple(templates)
    if not parsed:
        raise UserError("data.templates is empty: at least one prompt such as 'a photo of a {}.' is needed.")
    for template in parsed:
        if not isinstance(template, str) or template.count("{}") != 1:
            raise UserError(f"The template {template!r} must hold {{}} once, where the class name goes.")
    return parsed, prompt_file


def read_prompts(file: Path, names: Sequence[str], ids: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Return the prompts that a JSON file holds for each class.

    A class is found under its id (ImageNet's wnid), its name, or its name with spaces for underscores; the id
    tells classes of one name apart. ``{}`` in a prompt stands for the name.
    """
    content = read_json(file, "Correct it.")
    if not isinstance(content, dict):
        raise UserError(
            f'{file} must hold {{"class name": ["prompt", …], …}}, not a {type(content).__name__}.'
        )
    table = {_folded(key): value for key, value in content.items()}
    rows: list[tuple[str, ...]] = []
    absent: list[str] = []
    for i, name in enumerate(names):
        keys = [_folded(key) for key in (*ids[i : i + 1], name)]
        found = next((table[key] for key in keys if key in table), None)
        if found is None:
            absent.append(name)
        else:
            rows.append(_prompts(file, name, found))
    if absent:
        raise UserError(
            f"{file} has no prompts for {len(absent)} of {len(names)} classes: {some(absent)}"
            f"{did_you_mean(_folded(absent[0]), table)}."
        )
    return tuple(rows)


def _prompts(file: Path, name: str, value: Any) -> tuple[str, ...]:
    prompts = [value] if isinstance(value, str) else value
    good = isinstance(prompts, list) and all(isinstance(text, str) and text.strip() for text in prompts)
    if not good or not prompts:
        raise UserError(f"{file}: the prompts of {name!r} must be a list of sentences, none of them empty.")
    return tuple(text.strip().replace("{}", name.replace("_", " ")) for text in prompts)


def _folded(key: str) -> str:
    return key.replace("_", " ").strip().casefold()


def _ensemble(name: str, data: str) -> tuple[str, ...]:
    if name == "openai" and data not in _IMAGENET:
        ensembles = json.loads(_ENSEMBLE_FILE.read_text(encoding="utf-8"))
        if data in ensembles:
            return tuple(ensembles[data])
        raise UserError(
            f"data.templates=openai: CLIP's authors published no ensemble for {data!r}, only for imagenet, "
            f"{', '.join(sorted(ensembles))}."
        )
    if name not in ENSEMBLES:
        raise UserError(
            f"data.templates={name!r} is no ensemble{did_you_mean(name, ENSEMBLES)}, holds no {{}} and ends "
            f"neither in .txt nor in .json. Use {', '.join(ENSEMBLES)}, a prompt such as 'a photo of a "
            "{}.', or a file."
        )
    from open_clip import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES

    functions = SIMPLE_IMAGENET_TEMPLATES if name == "imagenet7" else OPENAI_IMAGENET_TEMPLATES
    return tuple(function("{}") for function in functions)


def _existing(name: str) -> Path:
    file = Path(name).expanduser().absolute()
    if not file.is_file():
        raise DataNotFoundError(f"data.templates: there is no file {file}.")
    return file
