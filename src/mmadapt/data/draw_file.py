"""A draw as a file that another can run from: paths and labels, relative to the data set's image folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmadapt.data.coop_pickle import read_coop_pickle, relocate
from mmadapt.data.images import ImageSet
from mmadapt.data.sampling import draw_positions
from mmadapt.data.splits import Draw, Splits, as_draw
from mmadapt.errors import DataNotFoundError, UserError

FORMAT = "mmadapt draw"
VERSION = 1


def draw_content(splits: Splits, drawn: Draw, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the JSON of a draw holds: ``about``, the hash, class names, images with their labels."""
    return {
        "format": FORMAT,
        "version": VERSION,
        **about,
        "sha256": drawn.sha256,
        "classes": list(splits.class_names),
        "train": _pairs(splits.train.select(drawn.train)),
        "val": _pairs(splits.val.select(drawn.val)),
    }


def read_draw(file: Path, splits: Splits, about: Mapping[str, Any]) -> Draw:
    """Find the images of a stored draw in a data set.

    Args:
        file: JSON that ``python -m mmadapt.data draw`` wrote, or a pickle of CoOp.
        splits: The data set.
        about: What the run expects of the draw, ``data``, ``shots``, ``val_source``.

    Raises:
        DataNotFoundError: If there is no such file.
        UserError: If it is no draw, was made for something else, or names images that are not there.
    """
    if not file.is_file():
        raise DataNotFoundError(f"data.draw: there is no file {file}.")
    if file.suffix == ".pkl":
        return _from_coop(file, splits, about)
    content = _read(file)
    for key, typed in (("data", "data"), ("shots", "shots"), ("val_source", "data.val_source")):
        if content.get(key) != about.get(key):
            raise UserError(
                f"{file} was drawn for {key}={content.get(key)}, this run has {typed}={about.get(key)}. "
                f"Type {typed}={content.get(key)} or draw again."
            )
    drawn = as_draw(
        splits,
        _find(file, content["train"], splits.train),
        _find(file, content["val"], splits.val),
    )
    if drawn.sha256 != content.get("sha256"):
        raise UserError(
            f"{file} was changed after it was written: its hash is {content.get('sha256')}, that of its "
            f"images is {drawn.sha256}. Draw again or get the file once more."
        )
    return drawn


def _from_coop(file: Path, splits: Splits, about: Mapping[str, Any]) -> Draw:
    found = read_coop_pickle(file)
    train = _find(file, found.train, splits.train)
    if found.val is not None:
        return as_draw(splits, train, _find(file, found.val, splits.val))
    if not splits.val_from_train:  # as in CoOp: ImageNet is validated on all test images
        return as_draw(splits, train, range(len(splits.val)))
    labels = splits.train.labels.tolist()
    taken = set(train)
    rest = [i for i in range(len(labels)) if i not in taken]
    shots = min(int(about["shots"]), 4)
    _, val = draw_positions([], [labels[i] for i in rest], 1, shots, int(about["split_seed"]))
    return as_draw(splits, train, [rest[i] for i in val])


def _find(file: Path, wanted: Sequence[Any], images: ImageSet) -> list[int]:
    """Return the position of each wanted image; paths of a pickle are absolute and of another machine."""
    known = {name: position for position, name in enumerate(images.names())}
    labels = images.labels.tolist()
    positions: list[int] = []
    lost: list[str] = []
    for path, label in wanted:
        try:
            position = known[relocate(path, known)]
        except KeyError:
            lost.append(path)
            continue
        if labels[position] != label:
            raise UserError(
                f"{file} gives {path} the label {label}, here it has {labels[position]}: "
                "the draw was made from another split."
            )
        positions.append(position)
    if lost:
        raise UserError(
            f"{len(lost)} of {len(wanted)} images of {file} are not in this data set: "
            f"{', '.join(lost[:5])}{', …' if len(lost) > 5 else ''}. It was drawn from another split."
        )
    return positions


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read as JSON: {error}.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("version") != VERSION:
        raise UserError(
            f"{file} is no draw of this version. Write one with python -m mmadapt.data draw NAME."
        )
    for key in ("train", "val"):
        rows = content.get(key)
        if not isinstance(rows, list) or not all(
            isinstance(row, list) and [type(cell) for cell in row] == [str, int] for row in rows
        ):
            raise UserError(f'{file}: {key} must be a list of ["path", label].')
    return content


def _pairs(images: ImageSet) -> list[list[str | int]]:
    return [[name, label] for name, label in zip(images.names(), images.labels.tolist(), strict=True)]
