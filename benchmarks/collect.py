"""The tables of a campaign of 2,000 runs: CPU seconds of the whole command, start of Python included.

Run ``python -m benchmarks.collect`` from the top of the checkout. The result files have the size of real ones: a
resolved configuration of about 170 keys, about 6 KB. CPU seconds of the process and its children, since wall time
on a shared machine is decided by the neighbours. Each command is run once before, so that files are in memory.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmadapt.results import RESULT_FILE, Result, RunKey, Score

GOAL_CPU, GOAL_WALL = 1.5, 3.0
DATA = ("imagenet", "caltech101", "oxford_pets", "stanford_cars", "oxford_flowers", "food101", "fgvc_aircraft",
        "sun397", "dtd", "eurosat", "ucf101")  # fmt: skip
METHODS = ("zero_shot", "linear_probe", "clip_adapter", "tip_adapter", "tip_adapter_f", "coop", "maple", "comma",
           "mm_adapter", "xmadapter", "kgcoop", "promptsrc")  # fmt: skip
COMMANDS: dict[str, list[str]] = {
    "all tables": [],
    "one table": ["--view", "methods-by-data", "--shots", "16"],
    "holes": ["--check"],
}


def config(key: RunKey) -> dict[str, Any]:
    """Return a resolved configuration of about 170 keys in the groups of a real one."""
    group = {f"option_{i:02}": (i, 0.1 * i, f"value {i}", None, i % 2 == 0)[i % 5] for i in range(28)}
    groups = {
        name: dict(group, name=name) for name in ("clip", "data", "method", "protocol", "trainer", "logger")
    }
    groups["data"] |= {
        "split_seed": key.seed,
        "source": {"archives": [{"url": "https://x", "md5": "0" * 32}] * 2},
    }
    places = {"results": "multirun", "data": "/data", "features": "/data/features"}
    return {
        **groups,
        "paths": places,
        "shots": key.shots,
        "seed": key.seed,
        "tag": key.tag,
        "overwrite": False,
    }


def write(root: Path, runs: int) -> int:
    """Write result files and return the bytes of one."""
    grid = itertools.product(METHODS, DATA, (1, 2, 4, 8, 16), (1, 2, 3, 4))
    for index, (method, data, shots, seed) in enumerate(itertools.islice(grid, runs)):
        key = RunKey("main", "few_shot", "vit_b16", data, method, shots, seed)
        top1 = 0.5 + (index * 7919 % 1000) / 4000
        score = Score(top1, top1, 0.9, 1.25, 0.04, round(top1 * 2463), 2463, 102, data)
        result = Result(
            key, {"test": score}, {"rule": "last", "epoch": 49, "val_top1": 0.6, "tuned": {"alpha": 1.5}},
            {"draw_sha256": "0" * 64, "classes": 102, "train": 1632, "val": 408, "test": 2463, "skipped": 0},
            {"trainable_params": 2048, "train_seconds": 12.5, "encode_seconds": 1.5, "peak_memory_mib": 974.5},
            "0" * 64, config(key),
            {"command": "python -m mmadapt", "versions": dict.fromkeys(("torch", "numpy"), "2.0"), "git": {},
             "overrides": ["method=coop"], "choices": {"data": data, "clip": "vit_b16"}},
        )  # fmt: skip
        folder = root.joinpath(
            *map(str, (key.tag, key.protocol, key.clip, data, method, f"{shots}shot", f"seed{seed}"))
        )
        folder.mkdir(parents=True)
        text = json.dumps(asdict(result), indent=1)
        (folder / RESULT_FILE).write_text(text, encoding="utf-8")
    return len(text)


def measure(root: Path, arguments: list[str], repeats: int) -> tuple[float, float]:
    """Return the median CPU and wall seconds of one command."""
    command = [sys.executable, "-m", "mmadapt.collect", str(root), *arguments]
    cpu, wall = [], []
    for _ in range(repeats + 1):
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
        wall.append(time.perf_counter() - started)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(cpu[1:]), statistics.median(wall[1:])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    missed = False
    with tempfile.TemporaryDirectory() as folder:
        size = write(Path(folder), arguments.runs)
        print(f"{arguments.runs} result files of {size} bytes")
        for name, options in COMMANDS.items():
            cpu, wall = measure(Path(folder), options, arguments.repeats)
            missed |= cpu > GOAL_CPU or wall > GOAL_WALL
            print(f"{name:10}  {cpu:.2f} CPU s (goal {GOAL_CPU})   {wall:.2f} s wall (goal {GOAL_WALL})")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
