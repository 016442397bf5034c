"""Real runs in children, two at a time: their numbers equal single runs, also beside a job that failed."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support import ROOT
from tests.support.distributed_runs import run
from tests.support.launching import Command

from mmadapt.results import Result

pytestmark = pytest.mark.slow


@pytest.mark.slow
def test_neighbours_of_a_failed_job_equal_single_runs(tmp_path, write_tree):
    counts = {f"{split}/{name}": 4 for split in ("train", "val", "test") for name in "ab"}
    tree = write_tree(tmp_path / "toys", counts)
    command = Command(tmp_path)
    base = [
        "data=folder",
        f"data.root={tree}",
        "clip=tiny",
        "trainer=cpu",
        "shots=2",
        f"paths.features={tmp_path}/f",
    ]
    folder = f"{tmp_path}/multirun/main/few_shot/tiny/toys/tip_adapter/2shot/seed{{}}"
    unwritable = Path(folder.format(2), "adapter.safetensors")
    (unwritable / "x").mkdir(parents=True)  # the weights of job 2 cannot be written
    sweep = command(
        "method=tip_adapter", *base, "seed=1,2,3", "launch.jobs=2", "-m", PYTHONPATH=str(ROOT / "src")
    )
    assert sweep.returncode == 1
    assert "3 jobs: 2 done, 0 already done, 1 failed." in sweep.stdout, sweep.stderr
    assert Result.read(Path(folder.format(2))) is None
    for seed in (1, 3):
        beside, single = (
            Result.read(Path(folder.format(seed))),
            run(tmp_path / f"alone{seed}", [*base, f"seed={seed}"], "tip_adapter").result,
        )
        assert beside.scores == single.scores
        assert beside.fingerprint == single.fingerprint
