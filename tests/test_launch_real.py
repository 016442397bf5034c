"""Real runs in children: their numbers equal single runs, also beside a job that failed."""

from __future__ import annotations

from pathlib import Path

import pytest
from launching import ROOT, Command

from mmadapt.results import Result


@pytest.mark.slow
def test_neighbours_of_a_failed_job_equal_single_runs(tmp_path, write_tree):
    counts = {f"{split}/{name}": 4 for split in ("train", "val", "test") for name in "ab"}
    tree = write_tree(tmp_path / "toys", counts)
    command = Command(tmp_path)
    base = ("method=tip_adapter", "data=folder", f"data.root={tree}", "clip=tiny", "trainer=cpu", "shots=2",
            f"paths.features={tmp_path}/f")  # fmt: skip
    real = {"PYTHONPATH": str(ROOT / "src")}  # without the stub
    folder = f"{tmp_path}/multirun/{{}}/few_shot/tiny/toys/tip_adapter/2shot/seed{{}}"
    Path(folder.format("main", 2), "adapter.safetensors", "x").mkdir(
        parents=True
    )  # the weights of job 2 cannot be written
    sweep = command(*base, "seed=1,2,3", "launch.isolate=true", "-m", **real)
    assert sweep.returncode == 1
    assert "3 jobs: 2 done, 0 already done, 1 failed." in sweep.stdout, sweep.stderr
    assert Result.read(Path(folder.format("main", 2))) is None
    for seed in (1, 3):
        alone = command(*base, f"seed={seed}", "tag=alone", **real)
        assert alone.returncode == 0, alone.stderr
        beside, single = (Result.read(Path(folder.format(tag, seed))) for tag in ("main", "alone"))
        assert beside.scores == single.scores
        assert beside.fingerprint == single.fingerprint
