"""A run on two processes that is killed goes on on two processes, and ends as an undisturbed one."""

from __future__ import annotations

import time

import pytest
import torch
from safetensors.torch import load_file
from tests.support.distributed_runs import Two

from mmadapt.results import CHECKPOINT_FILE, Result

pytestmark = pytest.mark.slow

OPTIONS = ["data=folder", "shots=5", "seed=2", "logger=none", "clip.arch=small-clip", "clip.pretrained=null",
           "method.block=transformer", "method.dropout=0.3", "method.mask=soft", "method.batch_size=4",
           "method.selection=last", "checkpoint_seconds=0"]  # fmt: skip


@pytest.mark.slow
def test_two_killed_processes_go_on(tmp_path, write_tree):
    counts = {f"{split}/{c}": 5 for split in ("train", "val", "test") for c in "abc"}
    tree = write_tree(tmp_path / "toys", counts)
    overrides = [*OPTIONS, f"data.root={tree}", f"paths.features={tmp_path}/f", "method.epochs=40"]
    file = tmp_path / "killed" / "mm_adapter" / CHECKPOINT_FILE
    jobs = [("mm_adapter", overrides)]
    two = Two(tmp_path / "killed", jobs)
    while not file.exists() and all(process.is_alive() for process in two.processes):
        time.sleep(0.002)
    two.kill()
    assert file.exists()
    assert "goes on after epoch" in Two(tmp_path / "killed", jobs).finish()
    assert "goes on after epoch" not in Two(tmp_path / "whole", jobs).finish()
    killed, whole = (Result.read(tmp_path / name / "mm_adapter") for name in ("killed", "whole"))
    assert (killed.scores, killed.selection) == (whole.scores, whole.selection)
    assert (killed.cost["resumed"], killed.provenance["world_size"]) == (1, 2)
    weights, others = (
        load_file(tmp_path / name / "mm_adapter/adapter.safetensors") for name in ("killed", "whole")
    )
    assert all(torch.equal(weights[key], others[key]) for key in others)
