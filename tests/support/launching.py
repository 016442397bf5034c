"""Start the real command with a stub in place of the experiment, so that no torch is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support import FILES, ROOT

STUB = FILES / "stub"


@dataclass
class Command:
    """``python -m mmadapt`` in a folder of its own, with its own locks."""

    cwd: Path

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "mmadapt", *arguments],
            cwd=self.cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "COLUMNS": "200", **self.environment, **environment},
        )  # fmt: skip

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PYTHONPATH": f"{STUB}:{ROOT / 'src'}", "STUB_LOG": str(self.log),
            "MMADAPT_LOCKS": str(self.cwd / "locks"), "MMADAPT_DEVICES": "",
        }  # fmt: skip

    def __call__(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        return self.side_by_side(arguments, **environment)[0]

    def side_by_side(self, *lines: Sequence[str], **environment: str) -> list[subprocess.CompletedProcess]:
        """Run commands that have nothing to do with each other at the same time."""
        started = [self.start(*line, **environment) for line in lines]
        said = [process.communicate(timeout=300) for process in started]
        return [
            subprocess.CompletedProcess(line, process.returncode, *both)
            for line, process, both in zip(lines, started, said, strict=True)
        ]

    @property
    def log(self) -> Path:
        return self.cwd / "stub.log"

    def computed(self) -> list[list[str]]:
        """Return method, seed, devices, start, end and process of every run that got through."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line.split()[1:] for line in lines if line.startswith("end")]

    def files(self) -> set[str]:
        return {str(path.relative_to(self.cwd)) for path in self.cwd.rglob("*")}

    def run_dir(self, method: str, seed: int) -> Path:
        return self.cwd / f"multirun/main/few_shot/vit_b16/shapes/{method}/16shot/seed{seed}"
