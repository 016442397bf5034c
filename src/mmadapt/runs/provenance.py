"""Where a number comes from: commit, versions, machine, time."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from mmadapt import __version__

_PACKAGES = ("torch", "lightning", "open_clip_torch", "hydra-core", "torchmetrics", "numpy")


def provenance(device: torch.device, started: float, world_size: int) -> dict[str, Any]:
    """Return what `Result.provenance` holds beside the command, which the runner knows."""
    return {
        "versions": versions(),
        "git": git_state(),
        "hardware": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{platform.processor() or platform.machine()} ({device.type})",
        "world_size": world_size,
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Return the versions of mmadapt, Python and the packages that compute."""
    return {
        "mmadapt": __version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in _PACKAGES},
    }


@lru_cache(maxsize=1)
def git_state() -> dict[str, Any]:
    """Return commit and dirtiness of the checkout this package runs from; empty for an installed wheel."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return {}
    try:
        sha = _git(root, "rev-parse", "HEAD")
        return {"sha": sha, "dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return {}


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()
