"""What makes two configurations the same run: the only list of what cannot change a number.

Runs are skipped, continued and tabled together by it. Imports nothing heavy: tables are printed from it too.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

IRRELEVANT = (
    "checkpoint_seconds",
    "launch",
    "logger",
    "overwrite",
    "paths",
    "report",
    "save_confusion",
    "save_predictions",
    "tag",
)
"""Top-level keys that cannot change a number."""
_TRAINER = re.compile(r"trainer\.(accelerator|devices|strategy|num_nodes|enable_\w*)\b")
_DATA_NODE = re.compile(r"(data|protocol\.sets\.\w+)\.(\w+)")
_PLACE = {"root", "dir", "folders", "images", "imagenet_dir", "imagenet_folders", "cache", "source", "counts",
          "split_sha256"}  # fmt: skip
_LATER = {
    "trainer.precision": "32-true",
    "trainer.accumulate_grad_batches": 1,
    "trainer.gradient_clip_val": None,
    "trainer.gradient_clip_algorithm": "norm",
    "trainer.deterministic": False,
    "trainer.benchmark": False,
}
"""Keys that were added later, at the value that says what was done before: a result without them stays the same."""


def relevant(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return, flat, the part of a resolved configuration that can change a number.

    Classes of this package count by their name, so that a move of files refuses no finished run.
    """
    flat = flatten({key: value for key, value in config.items() if key not in IRRELEVANT})
    return {key: _class_name(key, value) for key, value in flat.items() if _counts(key, value, flat)}


def fingerprint(config: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the `relevant` part of a configuration."""
    return hashlib.sha256(json.dumps(relevant(config), sort_keys=True).encode()).hexdigest()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return ``key: old → new`` for every relevant key in which two configurations differ."""
    return compare(relevant(old), relevant(new))


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return ``key: old → new`` for every key in which two flat mappings differ; NaN equals itself."""
    if before == after:
        return []
    missing = "(not set)"
    pairs = ((key, before.get(key, missing), after.get(key, missing)) for key in sorted({*before, *after}))
    return [
        f"{key}: {one} → {other}" for key, one, other in pairs if one != other and repr(one) != repr(other)
    ]


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one level with dotted keys; lists stay as they are."""
    if not isinstance(node, Mapping) or (not node and prefix):
        return {prefix: node}
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def _counts(key: str, value: Any, flat: Mapping[str, Any]) -> bool:
    if key in _LATER and value == _LATER[key]:
        return False
    if key.startswith("trainer."):
        return not _TRAINER.match(key)
    if key.startswith("protocol.known_targets"):
        return False
    if node := _DATA_NODE.match(key):
        where, name = node.groups()
        # A published data set is what it is wherever it lies; a folder is its path.
        return name != "num_workers" and not (name in _PLACE and _is_published(where, flat))
    return True


def _is_published(node: str, flat: Mapping[str, Any]) -> bool:
    return any(key == f"{node}.folders" or key.startswith(f"{node}.folders.") for key in flat)


def _class_name(key: str, value: Any) -> Any:
    if key.endswith("_target_") and isinstance(value, str) and value.startswith("mmadapt."):
        return value.rpartition(".")[2]
    return value
