"""A sweep of runs on two processes and on one: a relaunch repeats no sweep, and a failure pairs no strangers."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from tests.support import ROOT
from tests.support.distributed_runs import run

from mmadapt.config.paths import CONF_DIR
from mmadapt.results import Result

pytestmark = pytest.mark.slow

SHORT = ["shots=2", "clip=tiny", "method.epochs=2", "method.batch_size=3", "logger=none"]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, write_tree):
    """Three runs on two processes, of which the second breaks on its main process alone, and three on one."""
    root = tmp_path_factory.mktemp("ddp_sweep")
    tree = write_tree(
        root / "toys", {f"{s}/{c}": n for s, n in (("train", 3), ("val", 2), ("test", 3)) for c in "abc"}
    )
    (root / "conf" / "method").mkdir(parents=True)
    text = (CONF_DIR / "method" / "clip_adapter.yaml").read_text()
    text = text.replace(
        "mmadapt.methods.clip_adapter.ClipAdapter", "tests.support.rank_zero_fails.RankZeroFails"
    )
    (root / "conf" / "method" / "breaking.yaml").write_text(f"{text}\nbad_seed: 2\n")
    options = ["data=folder", f"data.root={tree}", f"paths.features={root / 'features'}", *SHORT]
    command = [sys.executable, "-m", "mmadapt", "-m", "--config-dir", str(root / "conf"), "method=breaking",
               "trainer=cpu", "trainer.devices=2,1", "seed=1,2,3", "tag=on${trainer.devices}",
               f"paths.results={root / 'multirun'}", *options]  # fmt: skip
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": paths, "MMADAPT_TARGETS": "tests.support.rank_zero_fails.",
           "OMP_NUM_THREADS": "1", "RANK_NOTES": str(root / "notes")}  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, env=env, cwd=root, timeout=500, check=False
    )
    return root, options, done


def folder_of(root, seed, devices=2):
    (found,) = (root / "multirun" / f"on{devices}").glob(f"few_shot/*/toys/breaking/2shot/seed{seed}")
    return found


def test_the_sweep_goes_on_and_ends_with_a_failure(sweep):
    root, _, done = sweep
    assert done.returncode == 1, done.stderr
    assert "6 jobs: 5 done, 0 already done, 1 failed." in done.stdout, done.stdout + done.stderr
    failed = folder_of(root, 2)
    assert "only the main process breaks" in json.loads((failed / "failed.json").read_text())["error"]
    assert not (failed / "result.json").exists()
    assert len(list(root.rglob("result.json"))) == 5, "no process ran a sweep of its own"
    assert {path.name for path in (root / "multirun").iterdir()} == {"on1", "on2"}


def test_every_process_takes_part_in_its_own_job_once(sweep):
    root, _, _ = sweep
    noted = [line.split() for line in (root / "notes").read_text().splitlines()]
    ranks = {(devices, seed): [] for devices in "21" for seed in "123"}
    for devices, seed, rank in noted:
        ranks[devices, seed].append(rank)
    broken = ranks.pop(("2", "2"))
    assert broken.count("0") == 1
    assert broken in (["0"], ["0", "1"], ["1", "0"]), "rank 1 may be ended before it comes so far"
    assert {job: sorted(found) for job, found in ranks.items()} == {
        job: ["0", "1"] if job[0] == "2" else ["0"] for job in ranks
    }


@pytest.mark.parametrize(("seed", "devices"), [(1, 2), (3, 2), (2, 1)])
def test_the_runs_beside_the_failed_one_equal_single_runs(sweep, seed, devices, tmp_path):
    root, options, _ = sweep
    together = Result.read(folder_of(root, seed, devices))
    assert together is not None
    assert together.provenance["world_size"] == devices
    alone = run(tmp_path / "alone", [*options, f"seed={seed}", "trainer=cpu"], "clip_adapter").result
    assert together.key.seed == seed
    assert together.data == alone.data
    assert together.scores["test"].correct == alone.scores["test"].correct
    weights, others = (
        load_file(f / "adapter.safetensors") for f in (tmp_path / "alone", folder_of(root, seed, devices))
    )
    for key in weights:
        torch.testing.assert_close(others[key], weights[key], rtol=1e-4, atol=1e-6)
