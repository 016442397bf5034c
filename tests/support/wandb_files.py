"""Reads the ``.wandb`` file of an offline run: what W&B would upload."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK, FILE_HEADER = 32768, 7


def records(path: Path) -> Iterator[Any]:
    """Yield the records: LevelDB's log format (CRC, length, kind; blocks of 32 KiB) behind a header of 7 bytes.

    The reader that W&B shipped in Python (``wandb.sdk.internal.datastore``) is gone since its core is written
    in Go.
    """
    content = path.read_bytes()
    assert content[:4] == b":W&B"
    position, record = FILE_HEADER, b""
    while position + 7 <= len(content):
        if (left := BLOCK - position % BLOCK) < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        record += content[position + 7 : position + 7 + length]
        if position + 7 + length > len(content):
            return  # still being written
        position += 7 + length
        if kind in (1, 4):  # whole, or last part
            yield wandb_internal_pb2.Record.FromString(record)
            record = b""


@dataclass
class Logged:
    """What one offline run holds."""

    folder: Path
    run: Any = None
    exit_code: int | None = None
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    charts: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.run.run_id


def read_run(folder: Path) -> Logged:
    """Return what an ``offline-run-…`` folder holds; nested keys are joined by dots."""
    (file,) = folder.glob("*.wandb")
    deadline = time.monotonic() + 20
    while (logged := _parse(file)).exit_code is None and time.monotonic() < deadline:
        time.sleep(0.05)  # W&B's own process may write a little after finish() has returned
    return logged


def _parse(file: Path) -> Logged:
    logged = Logged(file.parent)
    for record in records(file):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            logged.run = record.run
            logged.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "config":  # what is set after the start; custom charts among it
            logged.charts |= _items(record.config.update)
        elif kind == "summary":
            logged.summary |= _items(record.summary.update)
        elif kind == "history":
            logged.history.append(_items(record.history.item))
        elif kind == "exit":
            logged.exit_code = record.exit.exit_code
    return logged


def read_runs(results: Path) -> list[Logged]:
    """Return the offline runs below a folder of results, oldest first."""
    runs = [read_run(folder) for folder in (results / "wandb").glob("offline-run-*")]
    return sorted(runs, key=lambda logged: logged.run.start_time.ToNanoseconds())


def _items(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}
