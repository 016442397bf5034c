"""A draw as a file that another can run from: paths and labels, relative to the data set's image folder."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmadapt.data.draws import draw_positions
from mmadapt.data.images import ImageSet
from mmadapt.data.splits import Draw, Splits, as_draw
from mmadapt.errors import DataNotFoundError, UserError, some
from mmadapt.files import read_json

FORMAT = "mmadapt draw"
VERSION = 1
_RECORD = ("dassl.data.datasets.base_dataset", "Datum")

Pairs = list[tuple[str, int]]


def draw_content(splits: Splits, drawn: Draw, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the JSON of a draw holds: ``about``, the hash, class names, images with their labels."""
    train, val = (
        [list(row) for row in zip(images.names(), images.labels.tolist(), strict=True)]
        for images in (splits.train.select(drawn.train), splits.val.select(drawn.val))
    )
    head = {"format": FORMAT, "version": VERSION, **about, "sha256": drawn.sha256}
    return {**head, "classes": list(splits.class_names), "train": train, "val": val}


def read_draw(file: Path, splits: Splits, about: Mapping[str, Any]) -> Draw:
    """Find the images of a stored draw in a data set: JSON of ``python -m mmadapt.data draw``, a pickle of CoOp.

    A JSON must be about what the run is about: its ``data``, ``shots`` and ``val_source``.
    """
    if not file.is_file():
        raise DataNotFoundError(f"data.draw: there is no file {file}.")
    if file.suffix == ".pkl":
        return _from_coop(file, splits, about)
    again = "Write one with python -m mmadapt.data draw NAME."
    content = read_json(file, again)
    if not isinstance(content, dict) or (content.get("format"), content.get("version")) != (FORMAT, VERSION):
        raise UserError(f"{file} is no draw of this version. {again}")
    train, val = (
        _pairs(content.get(part), f'{file}: {part} must be a list of ["path", label].')
        for part in ("train", "val")
    )
    for key, typed in (("data", "data"), ("shots", "shots"), ("val_source", "data.val_source")):
        if content.get(key) != about.get(key):
            raise UserError(
                f"{file} was drawn for {key}={content.get(key)}, this run has {typed}={about.get(key)}. "
                f"Type {typed}={content.get(key)} or draw again."
            )
    drawn = as_draw(splits, _find(file, train, splits.train), _find(file, val, splits.val))
    if drawn.sha256 != content.get("sha256"):
        raise UserError(
            f"{file} was changed after it was written: its hash is {content.get('sha256')}, that of its "
            f"images is {drawn.sha256}. Draw again or get the file once more."
        )
    return drawn


def _from_coop(file: Path, splits: Splits, about: Mapping[str, Any]) -> Draw:
    content = _unpickle(file)
    if not isinstance(content, dict) or "train" not in content or not set(content) <= {"train", "val"}:
        raise UserError(f"{file} holds no draw of CoOp: expected the lists train and val.")
    wrong = f"{file} holds no draw of CoOp: an entry is not a record of an image."
    found = {part: _pairs(rows, wrong) for part, rows in content.items()}
    train = _find(file, found["train"], splits.train)
    if "val" in found:
        return as_draw(splits, train, _find(file, found["val"], splits.val))
    if not splits.val_from_train:  # as in CoOp: ImageNet is validated on all test images
        return as_draw(splits, train, range(len(splits.val)))
    labels = splits.train.labels.tolist()
    rest = sorted(set(range(len(labels))) - set(train))
    shots = min(int(about["shots"]), 4)
    _, val = draw_positions([], [labels[i] for i in rest], 1, shots, int(about["split_seed"]))
    return as_draw(splits, train, [rest[i] for i in val])


def _pairs(rows: Any, wrong: str) -> Pairs:
    good = isinstance(rows, list) and all(
        isinstance(row, list) and [type(cell) for cell in row] == [str, int] for row in rows
    )
    if not good:
        raise UserError(wrong)
    return [(path, label) for path, label in rows]


def _find(file: Path, wanted: Pairs, images: ImageSet) -> list[int]:
    """Return the position of each wanted image; paths of a pickle are absolute and of another machine."""
    known = {name: position for position, name in enumerate(images.names())}
    labels = images.labels.tolist()
    positions: list[int] = []
    lost: list[str] = []
    for path, label in wanted:
        parts = path.replace("\\", "/").split("/")
        relative = ("/".join(parts[start:]) for start in range(len(parts)))
        position = next((known[name] for name in relative if name in known), None)
        if position is None:
            lost.append(path)
        elif labels[position] != label:
            raise UserError(
                f"{file} gives {path} the label {label}, here it has {labels[position]}: "
                "the draw was made from another split."
            )
        else:
            positions.append(position)
    if lost:
        raise UserError(
            f"{len(lost)} of {len(wanted)} images of {file} are not in this data set: {some(lost)}. "
            "It was drawn from another split."
        )
    return positions


class _Record(list[Any]):
    """Stands in for Dassl's class: path and label of one image, of the machine that wrote the file."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self[:] = [state.get("_impath"), state.get("_label")]


class _Restricted(pickle.Unpickler):
    """Knows Dassl's record of one image; any other class is refused before it is imported."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) != _RECORD:
            raise UserError(
                f"refused to load {module}.{name} from the pickle: a draw of CoOp holds records of images "
                "only, so this file may run foreign code. Delete it unless you trust where it comes from."
            )
        return _Record


def _unpickle(file: Path) -> Any:
    try:
        with open(file, "rb") as stream:
            return _Restricted(stream).load()
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from error
    except Exception as error:  # a damaged pickle fails in any way
        raise UserError(
            f"{file} is not a pickle that CoOp wrote: {type(error).__name__}: {error}."
        ) from error
