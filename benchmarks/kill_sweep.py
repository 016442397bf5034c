"""Kill a sweep with SIGKILL at random moments, start it again, and compare with a sweep left in peace.

``python -m benchmarks.kill_sweep --kills 20`` prints a report and exits with 1 if any number, weight, curve or row
of the table differs, or anything is left behind. Kills are timed from the first sign of work, so that most of
them hit a run and not the imports; every fourth attempt computes two runs side by side in child processes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CELLS = ("method=tip_adapter_f,clip_adapter,mm_adapter,coop,maple", "shots=2", "seed=1,2")
OPTIONS = ("data=shapes", "clip=tiny", "trainer=cpu", "method.epochs=5", "checkpoint_seconds=0")
_ORDER = ("scores", "selection", "data", "fingerprint")


@dataclass
class Sweep:
    """A sweep in a folder of its own, with its own features.

    Attributes:
        root: The folder.
        overrides: What is swept.
        killed: What was seen at each kill.
    """

    root: Path
    overrides: Sequence[str]
    killed: list[str] = field(default_factory=list)

    @property
    def results(self) -> Path:
        """Where the runs lie."""
        return self.root / "multirun"

    def start(self, *extra: str) -> subprocess.Popen[bytes]:
        """Start the sweep in a session of its own; its output is appended to ``sweep.log``."""
        self.root.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "mmadapt", "-m", *self.overrides, *extra, f"paths.results={self.results}",
                   f"paths.features={self.root / 'features'}"]  # fmt: skip
        environment = {**os.environ, "MMADAPT_LOCKS": str(self.root / "locks"), "OMP_NUM_THREADS": "1"}
        with open(self.root / "sweep.log", "ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)

    def finish(self) -> float:
        """Run the sweep to its end; return the seconds from the first sign of work.

        Raises:
            RuntimeError: If it fails.
        """
        process = self.start()
        worked = self._working(process)
        if process.wait():
            raise RuntimeError(f"The sweep failed; see {self.root / 'sweep.log'}.")
        return time.monotonic() - worked

    def kill_after(self, delay: float, *extra: str) -> bool:
        """Kill the sweep and its children so many seconds after its first sign of work; False if it ended before."""
        process = self.start(*extra)
        worked = self._working(process)
        return self._kill(process, lambda: time.monotonic() - worked >= delay, f"{delay:5.2f} s", *extra)

    def kill_when(self, reached: Callable[[], bool]) -> bool:
        """Kill the sweep and its children as soon as a moment is reached; False if it ended before."""
        return self._kill(self.start(), reached, "")

    def _kill(
        self, process: subprocess.Popen[bytes], reached: Callable[[], bool], moment: str, *extra: str
    ) -> bool:
        while process.poll() is None and not reached():
            time.sleep(0.005)
        if process.poll() is not None:
            return False
        for pid in (process.pid, *descendants(process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        time.sleep(0.2)
        self.killed.append(f"{moment}  {' '.join(extra) or 'launch.jobs=1'}  {self.seen()}")
        return True

    def _working(self, process: subprocess.Popen[bytes]) -> float:
        """Wait until this attempt has written something beside locks and logs; return the time."""
        started = time.time()
        while process.poll() is None and not any(
            path.suffix in (".safetensors", ".ckpt", ".csv") and changed(path) >= started
            for path in self.root.rglob("*.*")
        ):
            time.sleep(0.02)
        return time.monotonic()

    def seen(self) -> str:
        """Return what a kill left on disk."""
        from mmadapt.training.checkpoint import load

        found = [f"{len(list(self.results.rglob('result.json')))} results"]
        for lock in sorted(self.results.rglob(".lock")):
            run = lock.parent
            names = {path.name for path in run.iterdir()}
            if "result.json" in names:
                phase = "after the result"
            elif "details.json" in names or "adapter.safetensors" in names:
                phase = "scoring"
            elif "last.ckpt" in names:
                phase = f"training, saved after epoch {load(run / 'last.ckpt')['epoch']}"
            else:
                phase = "before the end of the first epoch"
            found.append(f"{run.parent.parent.name}/{run.name}: {phase}")
        half = [path.name for path in self.root.rglob("*.tmp")]
        return "; ".join([*found, *(["half-written: " + ", ".join(half)] if half else [])])

    def runs(self) -> dict[str, dict[str, Any]]:
        """Return every result by the folder of its run."""
        files = sorted(self.results.rglob("result.json"))
        return {
            str(file.parent.relative_to(self.results)): json.loads(file.read_text(encoding="utf-8"))
            for file in files
        }

    def table(self) -> str:
        """Return the table of the sweep."""
        from mmadapt.collect.__main__ import main

        with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(io.StringIO()):
            main([str(self.results / "main")])
        return printed.getvalue().replace(str(self.root), "")

    def litter(self) -> list[str]:
        """Return what should not be there after a sweep: locks, checkpoints, half-written files and the like."""
        wrong = ("*.tmp", ".lock", "last.ckpt", "failed.json", "console.log")
        return [str(path.relative_to(self.root)) for pattern in wrong for path in self.root.rglob(pattern)]


def changed(path: Path) -> float:
    """Return when a file was changed; 0 if it is gone."""
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_mtime
    return 0.0


def descendants(pid: int) -> list[int]:
    """Return the processes that a process has started, and theirs."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    own = children.get(pid, [])
    return [each for child in own for each in (child, *descendants(child))]


def differences(whole: Sweep, killed: Sweep) -> list[str]:
    """Return in what a killed sweep differs from an undisturbed one; empty if in nothing."""
    import torch
    from safetensors.torch import load_file

    found = killed.litter()
    expected, runs = whole.runs(), killed.runs()
    if expected.keys() != runs.keys():
        return [*found, f"runs: {sorted(expected.keys() ^ runs.keys())}"]
    for name, result in expected.items():
        found += [f"{name}: {key}" for key in _ORDER if result[key] != runs[name][key]]
        one, other = (load_file(sweep.results / name / "adapter.safetensors") for sweep in (whole, killed))
        if one.keys() != other.keys() or not all(torch.equal(one[key], other[key]) for key in one):
            found.append(f"{name}: weights")
        curves = [(sweep.results / name / "metrics.csv").read_bytes() for sweep in (whole, killed)]
        if curves[0] != curves[1]:
            found.append(f"{name}: metrics.csv")
    return [*found, *(["table"] if whole.table() != killed.table() else [])]


def resumed(sweep: Sweep) -> dict[str, int]:
    """Return how often each run went on from a checkpoint."""
    times = {name: int(result["cost"].get("resumed", 0)) for name, result in sweep.runs().items()}
    return {name: count for name, count in times.items() if count}


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the check; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--per-sweep", type=float, default=10, help="kills aimed at in one sweep")
    options = parser.parse_args(arguments)
    draw, overrides, failed, kills = random.Random(options.seed), (*CELLS, *OPTIONS), False, 0
    with tempfile.TemporaryDirectory(prefix="mmadapt-kills-") as folder:
        whole = Sweep(Path(folder) / "whole", overrides)
        work = whole.finish()
        print(f"Undisturbed: {len(whole.runs())} runs, {work:.0f} s of work.\n", flush=True)
        number = 0
        while kills < options.kills:
            number += 1
            sweep = Sweep(Path(folder) / f"sweep{number}", overrides)
            going = True
            while kills < options.kills and going:
                extra = ("launch.jobs=2",) if kills % 4 == 3 else ()
                going = sweep.kill_after(draw.uniform(0, 2 * work / options.per_sweep), *extra)
                if going:
                    kills += 1
                    print(f"kill {kills:2d} (sweep {number}) after {sweep.killed[-1]}", flush=True)
            sweep.finish()
            differing = differences(whole, sweep)
            failed |= bool(differing)
            again = resumed(sweep)
            print(f"sweep {number}: {len(sweep.killed)} kills, {len(sweep.runs())} runs; went on from a checkpoint: "
                  f"{', '.join(f'{name} {count}×' for name, count in again.items()) or 'none'}; "
                  f"differences and leftovers: {', '.join(differing) or 'none'}\n", flush=True)  # fmt: skip
        print(whole.table())
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
