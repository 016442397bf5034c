"""Two checkouts of the project in turn: what a change cost, each claim's own code timed in a process of its checkout.

Run ``OMP_NUM_THREADS=1 python -m benchmarks.against /path/to/old /path/to/new``. Both processes stay alive and take
turns, so that what drifts on the machine falls on both; a pair's ratio is old over new in CPU seconds, 1 is no change.
A loss counts if the whole range lies below 0.95. Numbers are not compared here: the gates of the benchmarks, the
oracles of the tests and the stored results do that.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.common import Outcome, finish

WORKER = """
import os, resource, subprocess, sys, time
import torch
torch.set_num_threads(1)
from torch.nn import functional as F

def prompt_step():
    from benchmarks.prompt_step import Case
    return Case("coop", 32).candidate

def cache_search():
    from benchmarks.growth import search
    return search(100, 16, 800)

def mm_step():
    from benchmarks import mm_adapter
    from mmadapt.data.base import ClassSet
    from mmadapt.methods.mm_adapter import MMAdapter
    g = torch.Generator().manual_seed(0)
    texts = F.normalize(torch.randn(100, mm_adapter.DIM, generator=g), dim=-1)
    names = ClassSet(tuple(f"class {i}" for i in range(100)))
    method = MMAdapter(clip=mm_adapter.Towerless(), classes=names, text_features=texts)
    features, labels = 10 * torch.randn(32, mm_adapter.DIM, generator=g), torch.randint(100, (32,), generator=g)
    def steps():
        for _ in range(20):
            method.loss((features, labels)).backward()
    return steps

def lightning_run():
    from benchmarks.synthetic_runs import Problem, Spec, by_lightning
    problem = Problem(512, 100, "sgd", epochs=4)
    return lambda: by_lightning(problem.run(Spec(1, 16, 2e-3, 200)))

def one_batch_epoch():
    from benchmarks import one_batch_epoch as module
    from benchmarks.one_batch_epoch import DIM, IMAGES, EpochLoader, FeatureSet, resident
    features = torch.randn(1, IMAGES, DIM, generator=torch.Generator().manual_seed(0))
    loader = EpochLoader(FeatureSet(features, torch.arange(IMAGES) % 5), IMAGES, seed=1)
    def epochs():
        for _ in range(2000):
            resident(loader)
    return epochs

def linear_probe():
    from benchmarks.linear_probe_path import LogisticRegression, Problem
    problem = Problem(512, 50, 8)
    def path():
        solver = LogisticRegression(problem.features, problem.labels, problem.classes)
        for value in problem.values:
            solver.fit(value)
    return path

def first_encode():
    from mmadapt.clip import ClipBackbone
    try:
        from mmadapt.features.pipeline import encode_images
    except ImportError:  # the first layout
        from mmadapt.encode import encode_images
    clip = ClipBackbone("ViT-B-32", None)
    pixels = torch.randn(16, 3, *clip.transform.size, generator=torch.Generator().manual_seed(0))
    decode = lambda items: (torch.stack([pixels[i] for i, _ in items]), torch.ones(len(items), dtype=torch.bool))
    return lambda: list(encode_images(clip, decode, [(i, 0) for i in range(16)], 16, 0))

def command(*words):
    def run():
        subprocess.run([sys.executable, "-m", "mmadapt", *words], stdout=subprocess.DEVNULL, check=True)
    return run

CASES = {"P1 prompt step, coop C=32": prompt_step, "P2 alpha/beta search, 2 beta, C=100": cache_search,
         "P3 20 Multi-Modal Adapter steps, C=100": mm_step, "P6 a run by Lightning, 16 shots": lightning_run,
         "P7 2000 one-batch epochs": one_batch_epoch, "P8 --help": lambda: command("--help"),
         "P8 --cfg job": lambda: command("--cfg", "job"), "P12 linear probe path": linear_probe,
         "first encode, 16 images": first_encode}
work, name = None, None
for line in sys.stdin:
    if line.strip() != name:
        name = line.strip()
        work = CASES[name]()
        work()
    def used():
        return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    before = used()
    work()
    print("seconds", used() - before, flush=True)
"""
NAMES = (
    "P1 prompt step, coop C=32",
    "P2 alpha/beta search, 2 beta, C=100",
    "P3 20 Multi-Modal Adapter steps, C=100",
    "P6 a run by Lightning, 16 shots",
    "P7 2000 one-batch epochs",
    "P8 --help",
    "P8 --cfg job",
    "P12 linear probe path",
    "first encode, 16 images",
)


def worker(checkout: Path) -> Callable[[str], float]:
    """Start the process of a checkout; return what times a case in it."""
    environment = {**os.environ, "PYTHONPATH": f"{checkout / 'src'}:{checkout}", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", WORKER], cwd=checkout, env=environment, text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    reader, writer = process.stdout, process.stdin

    def seconds(name: str) -> float:
        writer.write(name + "\n")
        writer.flush()
        while line := reader.readline():
            if line.startswith("seconds "):
                return float(line.split()[1])
        raise SystemExit(f"{checkout}: {name} failed.")

    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--pairs", type=int, default=7)
    options = parser.parse_args()
    old, new = (worker(checkout.resolve()) for checkout in (options.old, options.new))
    outcomes = []
    for name in NAMES:
        pairs = [(old(name), new(name)) for _ in range(options.pairs)]
        outcome = Outcome(f"{name}, old over new", 0.0, 0.0, 0.95, load=os.getloadavg()[0])
        outcome.ratios = [before / after for before, after in pairs]
        outcome.seconds = tuple(statistics.median(column) for column in zip(*pairs, strict=True))  # type: ignore[assignment]
        print(outcome, flush=True)
        outcomes.append(outcome)
    finish("against", outcomes, smoke=False)


if __name__ == "__main__":
    main()
