"""Real runs in children: their numbers equal single runs, also beside a job that failed."""

from __future__ import annotations

import pytest
from launching import ROOT, Command

from mmadapt.results import Result


@pytest.mark.slow
@pytest.mark.parametrize("options", ["launch.isolate=true", "launch.jobs=3"])
def test_neighbours_of_a_failed_job_equal_single_runs(options, tmp_path, write_tree):
    counts = {f"{split}/{name}": 4 for split in ("train", "val", "test") for name in "ab"}
    tree = write_tree(tmp_path / "toys", counts)
    command = Command(tmp_path)
    base = ("method=tip_adapter", "data=folder", f"data.root={tree}", "clip=tiny", "trainer=cpu", "shots=2",
            f"paths.features={tmp_path}/f")  # fmt: skip
    real = {"PYTHONPATH": str(ROOT / "src")}  # without the stub
    folder = tmp_path / "multirun/{}/few_shot/tiny/toys/tip_adapter/2shot/seed{}"
    in_the_way = str(folder).format("main", 2) + "/adapter.safetensors/x"
    (tmp_path / in_the_way).mkdir(parents=True)  # the weights of job 2 cannot be written
    sweep = command(*base, "seed=1,2,3", options, "-m", **real)
    assert sweep.returncode == 1
    assert "3 jobs: 2 done, 0 already done, 1 failed." in sweep.stdout, sweep.stderr
    assert command(*base, "seed=1,3", "tag=here", "-m", **real).returncode == 0
    assert command(*base, "seed=3", "tag=alone", **real).returncode == 0
    stored = {
        (tag, seed): Result.read(type(tmp_path)(str(folder).format(tag, seed)))
        for tag, seed in (("main", 1), ("main", 2), ("main", 3), ("here", 1), ("here", 3), ("alone", 3))
    }
    assert stored["main", 2] is None
    assert stored["main", 1].scores == stored["here", 1].scores
    assert stored["main", 3].scores == stored["here", 3].scores == stored["alone", 3].scores
    assert stored["main", 3].fingerprint == stored["alone", 3].fingerprint
