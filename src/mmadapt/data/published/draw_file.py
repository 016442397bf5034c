"""A draw as a file that another can run from: paths and labels, relative to the data set's image folder."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmadapt.data.draws import draw_positions
from mmadapt.data.images import ImageSet
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


_RECORD = ("dassl.data.datasets.base_dataset", "Datum")


@dataclass(frozen=True)
class CoopDraw:
    """What such a file holds: absolute paths of the machine that wrote it, with labels.

    Attributes:
        train: Training images.
        val: Validation images; None for ImageNet, where CoOp validates on test.
    """

    train: list[tuple[str, int]]
    val: list[tuple[str, int]] | None


def read_coop_pickle(file: Path) -> CoopDraw:
    """Read a draw that CoOp cached.

    The only class a file may name is Dassl's record of one image; anything else is refused before it is
    imported.

    Raises:
        UserError: If the file cannot be read, names anything else, or is no such draw.
    """
    try:
        with open(file, "rb") as stream:
            content = _Restricted(stream).load()
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from error
    except Exception as error:  # a damaged pickle fails in any way
        raise UserError(
            f"{file} is not a pickle that CoOp wrote: {type(error).__name__}: {error}."
        ) from error
    if not isinstance(content, dict) or "train" not in content or not set(content) <= {"train", "val"}:
        raise UserError(f"{file} holds no draw of CoOp: expected the lists train and val.")
    val = _images(file, content["val"]) if "val" in content else None
    return CoopDraw(_images(file, content["train"]), val)


def relocate(path: str, known: dict[str, int]) -> str:
    """Return the part of an absolute path that is known relative to this machine's image folder.

    Raises:
        KeyError: If no part is.
    """
    parts = path.replace("\\", "/").split("/")
    for start in range(len(parts)):
        relative = "/".join(parts[start:])
        if relative in known:
            return relative
    raise KeyError(path)


class _Record:
    """Stands in for Dassl's class; its attributes come from the file."""


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) != _RECORD:
            raise UserError(
                f"refused to load {module}.{name} from the pickle: a draw of CoOp holds records of images "
                "only, so this file may run foreign code. Delete it unless you trust where it comes from."
            )
        return _Record


def _images(file: Path, items: Any) -> list[tuple[str, int]]:
    images: list[tuple[str, int]] = []
    for item in items if isinstance(items, Sequence) else [None]:
        state = vars(item) if isinstance(item, _Record) else {}
        path, label = state.get("_impath"), state.get("_label")
        if not isinstance(path, str) or not isinstance(label, int):
            raise UserError(f"{file} holds no draw of CoOp: an entry is not a record of an image.")
        images.append((path, label))
    return images
