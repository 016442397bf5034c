"""A run on two processes that is killed goes on on two processes, and ends as an undisturbed one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmadapt.results import CHECKPOINT_FILE, Result

SCRIPT = Path(__file__).parent / "distributed_runs.py"
OPTIONS = ["data=folder", "shots=5", "seed=2", "logger=none", "clip.arch=small-clip", "clip.pretrained=null",
           "method.block=transformer", "method.dropout=0.3", "method.mask=soft", "method.batch_size=4",
           "method.selection=last", "checkpoint_seconds=0"]  # fmt: skip


def start(root, overrides):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = []
    for rank in ("0", "1"):
        env = {**os.environ, "LOCAL_RANK": rank, "NODE_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
               "OMP_NUM_THREADS": "1"}  # fmt: skip
        command = [sys.executable, SCRIPT, root, json.dumps([("mm_adapter", overrides)]), str(port)]
        started.append(subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True))
    return started


@pytest.mark.slow
def test_two_killed_processes_go_on(tmp_path, write_tree):
    counts = {f"{split}/{c}": 5 for split in ("train", "val", "test") for c in "abc"}
    tree = write_tree(tmp_path / "toys", counts)
    overrides = [*OPTIONS, f"data.root={tree}", f"paths.features={tmp_path}/f", "method.epochs=40"]
    file = tmp_path / "killed" / "mm_adapter" / CHECKPOINT_FILE
    processes = start(tmp_path / "killed", overrides)
    while not file.exists() and all(process.poll() is None for process in processes):
        time.sleep(0.002)
    for process in processes:
        process.kill()
    for process in processes:
        process.communicate()
    assert file.exists()
    for name in ("killed", "whole"):
        processes = start(tmp_path / name, overrides)
        errors = [process.communicate(timeout=300)[1] for process in processes]
        assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
        if name == "killed":
            assert "goes on after epoch" in errors[0]
    killed, whole = (Result.read(tmp_path / name / "mm_adapter") for name in ("killed", "whole"))
    assert (killed.scores, killed.selection) == (whole.scores, whole.selection)
    assert (killed.cost["resumed"], killed.provenance["world_size"]) == (1, 2)
    weights, others = (
        load_file(tmp_path / name / "mm_adapter/adapter.safetensors") for name in ("killed", "whole")
    )
    assert all(torch.equal(weights[key], others[key]) for key in others)
