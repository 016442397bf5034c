"""The images of a folder of class folders, by one scan that is remembered. Imports no torch.

A million files are listed but none is touched: a class folder's modification time tells whether files came or
went, so a later start reads one file and asks for a thousand times.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from contextlib import suppress
from pathlib import Path

from mmadapt.errors import DataNotFoundError, UserError
from mmadapt.files import replacing
from mmadapt.progress import track

log = logging.getLogger(__name__)

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp")
_TICK_NS = 2_000_000_000
"""Coarsest clock of a common file system: a folder changed later than that may change again unseen."""


def index_folder(root: Path, cache: Path | None = None) -> tuple[dict[str, list[str]], list[str]]:
    """List the images of every class folder, sorted, and those beside the folders; no hidden or other files.

    Args:
        root: The folder that holds the class folders.
        cache: Folder of remembered indexes; None remembers nothing. Anything wrong with it is no error.
    """
    started = time.time_ns()
    times: dict[str, int] = {}
    loose: list[str] = []
    try:
        with os.scandir(root) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    times[entry.name] = os.stat(entry.path).st_mtime_ns
                elif entry.name.lower().endswith(SUFFIXES):
                    loose.append(entry.name)
        times = dict(sorted(times.items()))
        file = cache and cache / f"index-{hashlib.sha256(os.fsencode(root)).hexdigest()[:16]}.json"
        folders = _recall(file, times)
        if folders is None:
            folders = {name: _images(root / name) for name in track(times, f"listing {root}", len(times))}
            if file is not None and all(changed < started - _TICK_NS for changed in times.values()):
                try:
                    with replacing(file) as temporary:
                        temporary.write_text(json.dumps({"times": times, "names": list(folders.values())}))
                except OSError as error:
                    log.warning("The index of %s is not remembered in %s: %s", root, cache, error)
    except FileNotFoundError as error:
        raise DataNotFoundError(f"There is no folder {error.filename}.") from error
    except OSError as error:
        raise UserError(f"The folder {error.filename} cannot be listed: {error.strerror}.") from error
    return folders, sorted(loose)


def _images(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
    return sorted(name for name in names if name.lower().endswith(SUFFIXES) and name[0] != ".")


def _recall(file: Path | None, times: dict[str, int]) -> dict[str, list[str]] | None:
    if file is not None:
        with suppress(OSError, ValueError, LookupError, TypeError):
            known = json.loads(file.read_bytes())
            if known["times"] == times:
                return dict(zip(times, known["names"], strict=True))
    return None
