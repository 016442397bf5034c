"""An append-only store of feature rows on disk, keyed by content, safe under concurrent and killed writers.

A *space* fixes everything that all its rows share (model, weights, precision, transform); a *key* names one
row in it. Rows arrive in shards: a shard is written under a temporary name, checked, and renamed, so a reader
sees whole shards only, and two writers at once waste work at worst.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mmadapt.errors import UserError
from mmadapt.files import replacing

log = logging.getLogger(__name__)

Compute = Callable[[Sequence[int]], Iterable[Tensor]]
"""Maps positions whose rows are missing to chunks of rows, in the same order."""

_STALE_SECONDS = 24 * 3600


class FeatureStore:
    """Rows of float32 features on disk; one instance may serve all runs of a process."""

    def __init__(self, root: Path) -> None:
        """Open the store below ``root``; the folder is made when the first row is stored."""
        self.root = root
        self._spaces: dict[str, _Space] = {}

    def fetch(self, space: Mapping[str, Any], keys: Sequence[str], compute: Compute) -> Tensor:
        """Return the rows of ``keys``, (N, D), computing and storing those that are missing.

        Args:
            space: JSON-like description of what all rows share; any change of it is another space.
            keys: Content key of each row; equal keys share a row.
            compute: Called once with the positions (first occurrence of each missing key). The chunks it
                yields are stored one by one, so a killed run keeps what it had encoded. Rows that are not
                finite are returned but not stored: what failed once is tried again.

        Raises:
            UserError: If rows cannot be written.
        """
        opened = self._open(space)
        missing = opened.missing(keys)
        if missing:
            opened.refresh()
            missing = opened.missing(keys)
        done, failed = 0, dict[str, Tensor]()
        for chunk in compute(missing) if missing else ():
            rows = chunk.detach().to("cpu", torch.float32)
            new = [keys[i] for i in missing[done : done + len(rows)]]
            finite = rows.isfinite().all(dim=1)
            failed.update((key, row) for key, row, good in zip(new, rows, finite, strict=True) if not good)
            opened.append([key for key, good in zip(new, finite, strict=True) if good], rows[finite])
            done += len(rows)
        if done != len(missing):
            raise RuntimeError(f"{len(missing)} rows were asked for, {done} were computed.")
        return opened.gather(keys, failed)

    def _open(self, space: Mapping[str, Any]) -> _Space:
        text = json.dumps(space, sort_keys=True, default=str)
        name = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
        if name not in self._spaces:
            self._spaces[name] = _Space(self.root / name, text)
        return self._spaces[name]


class _Space:
    def __init__(self, folder: Path, description: str) -> None:
        self.folder, self.description = folder, description
        self.shards: list[Tensor] = []
        self.rows: dict[str, tuple[int, int]] = {}
        self.seen: set[str] = set()
        self.refresh()

    def missing(self, keys: Sequence[str]) -> list[int]:
        first: dict[str, int] = {}
        for position, key in enumerate(keys):
            if key not in self.rows:
                first.setdefault(key, position)
        return list(first.values())

    def gather(self, keys: Sequence[str], failed: Mapping[str, Tensor]) -> Tensor:
        if failed:
            width = len(next(iter(failed.values())))
            good = [key not in failed for key in keys]
            rows = torch.empty(len(keys), width)
            rows[good] = self.gather([key for key in keys if key not in failed], {}).view(-1, width)
            for position, key in enumerate(keys):
                if key in failed:
                    rows[position] = failed[key]
            return rows
        places = [self.rows[key] for key in keys]
        if not places:
            return torch.empty(0, self.shards[0].shape[1] if self.shards else 0)
        by_shard: dict[int, list[int]] = {}
        for position, (shard, _) in enumerate(places):
            by_shard.setdefault(shard, []).append(position)
        rows = torch.empty(len(places), self.shards[places[0][0]].shape[1])
        for shard, positions in by_shard.items():
            rows[torch.tensor(positions)] = self.shards[shard][
                torch.tensor([places[i][1] for i in positions])
            ]
        return rows

    def refresh(self) -> None:
        """Read shards that appeared since the last look."""
        if not self.folder.is_dir():
            return
        for path in sorted(self.folder.iterdir()):
            if path.name in self.seen:
                continue
            if path.suffix == ".safetensors":
                self.seen.add(path.name)
                self._read(path)
            elif path.suffix == ".tmp" and _age(path) > _STALE_SECONDS:
                with suppress(OSError):  # another user's, or gone by now
                    path.unlink()

    def append(self, keys: list[str], rows: Tensor) -> None:
        if not keys:
            return
        name = f"{uuid.uuid4().hex}.safetensors"
        metadata = {"keys": json.dumps(keys), "checksum": _checksum(keys, rows)}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / "space.json").exists():
                text = self.description + "\n"
                with replacing(self.folder / "space.json") as temporary:
                    temporary.write_text(text, encoding="utf-8")
            with replacing(self.folder / name) as temporary:
                save_file({"features": rows}, temporary, metadata)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"Features cannot be stored in {self.folder}: {error}. Set paths.features=… or "
                "MMADAPT_FEATURES to a folder with space that you can write to."
            ) from error
        self.seen.add(name)
        self._index(keys, rows)

    def _read(self, path: Path) -> None:
        try:
            with safe_open(path, framework="pt") as file:
                metadata, rows = file.metadata() or {}, file.get_tensor("features")
            keys = json.loads(metadata["keys"])
            if metadata["checksum"] != _checksum(keys, rows):
                raise ValueError("the checksum differs")
        except FileNotFoundError:
            return
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            log.warning(
                "Damaged feature shard %s is left aside and its rows are encoded again: %s", path, error
            )
            return
        self._index(keys, rows)

    def _index(self, keys: Sequence[str], rows: Tensor) -> None:
        shard = len(self.shards)
        self.shards.append(rows)
        for row, key in enumerate(keys):
            self.rows.setdefault(key, (shard, row))


def _checksum(keys: Sequence[str], rows: Tensor) -> str:
    digest = hashlib.blake2b(json.dumps(list(keys)).encode(), digest_size=16)
    digest.update(rows.numpy().data)
    return digest.hexdigest()


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
