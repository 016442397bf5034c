"""Real experiments run inside this process, for the benchmarks of encoding and of whole sweeps."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from mmadapt.config.hydra_versions import BASE
from mmadapt.config.paths import CONF_DIR
from mmadapt.config.schema import register_resolvers
from mmadapt.results import Result
from mmadapt.runs.job import execute

register_resolvers()


def run_here(overrides: Sequence[str], run_dir: Path) -> Result:
    """Run one experiment through the product's own path and return its result."""
    with initialize_config_dir(str(CONF_DIR), **BASE):
        cfg = compose("config", overrides=list(overrides))
    groups = ("clip", "data", "method", "protocol", "trainer", "logger")
    choices = {group: _choice(group, overrides, str(cfg[group].get("name", group))) for group in groups}
    with contextlib.redirect_stdout(io.StringIO()):
        result = execute(cfg, choices, run_dir, list(overrides)).result
    if result is None:
        raise RuntimeError(f"{run_dir} has no result.")
    return result


def _choice(group: str, overrides: Sequence[str], default: str) -> str:
    return next((o.split("=", 1)[1] for o in overrides if o.startswith(f"{group}=")), default)


def command(*overrides: str) -> None:
    """Run ``python -m mmadapt OVERRIDES`` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "mmadapt", *overrides], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(overrides)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def scores_below(root: Path) -> dict[str, Any]:
    """Return the scores of all results below a folder, by the path of the run within its campaign."""
    files = sorted(root.rglob("result.json"))
    return {"/".join(f.parent.parts[-6:]): json.loads(f.read_text(encoding="utf-8"))["scores"] for f in files}
