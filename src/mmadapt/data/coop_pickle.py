"""Reads CoOp's cached draws, ``split_fewshot/shot_16-seed_1.pkl``, without running what a pickle may hold."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmadapt.errors import UserError

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
