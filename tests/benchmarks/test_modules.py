"""Every benchmark still runs in a tiny size, and what it compares is equal; ratios are not looked at."""

import importlib
import math
import subprocess

import pytest
import torch
from tests.support import ROOT


@pytest.fixture(autouse=True)
def _as_from_the_top(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'src'}")  # of the processes that benchmarks start
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)  # benchmarks take one


@pytest.mark.parametrize("name", [
    "tip_adapter_f", "one_batch_epoch", "growth", "evaluation", "linear_probe_path", "gpu",
    *(pytest.param(slow, marks=pytest.mark.slow) for slow in ("start_up", "encode_once", "whole_sweep", "launch_jobs")),
])  # fmt: skip
def test_runs_and_passes_its_gate(name, capsys):
    module = importlib.import_module(f"benchmarks.{name}")
    outcomes = module.main(["--smoke"])
    assert outcomes
    for outcome in outcomes:
        if hasattr(outcome, "ratios"):
            assert outcome.error <= outcome.limit, outcome
            assert all(ratio > 0 for ratio in outcome.ratios)
            assert outcome.ratios
        else:
            assert math.isfinite(outcome.value), outcome
    assert "stored" not in capsys.readouterr().out


def test_numbers_that_differ_give_no_ratio():
    common = importlib.import_module("benchmarks.common")
    outcome = common.compare("other", lambda: 1.0, lambda: 2.0, lambda a, b: abs(a - b), limit=0.5, goal=1.0)
    assert not outcome.ratios
    assert "no ratio" in str(outcome)


def test_table_shows_the_latest_of_each_name(capsys):
    table = importlib.import_module("benchmarks.table")
    table.main()
    shown = capsys.readouterr().out
    assert "| cache_search |" in shown
    names = [(benchmark, outcome["name"]) for benchmark, _, outcome in table.latest()]
    assert len(names) == len(set(names))


def test_make_bench_runs_what_there_is_with_its_short_options(monkeypatch, capsys):
    runner = importlib.import_module("benchmarks.__main__")
    commands = []

    def run(command, **options):
        commands.append((command, options.get("env", {}).get("OMP_NUM_THREADS")))
        return subprocess.CompletedProcess(command, 1 if "benchmarks.growth" in command else 0)

    monkeypatch.setattr(runner.subprocess, "run", run)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert all((ROOT / "benchmarks" / f"{name}.py").is_file() for name in runner.SHORT)
    runner.main(["first_encode", "mm_adapter"])
    assert [(command[2:], threads) for command, threads in commands] == [
        (["benchmarks.first_encode", "--images", "32"], None),
        (["benchmarks.mm_adapter"], "1"),
        (["benchmarks.table"], None),
    ]
    with pytest.raises(SystemExit, match="growth failed"):
        runner.main(["growth", "mm_adapter"])
