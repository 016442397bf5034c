"""A sweep that is killed and started again gives what an undisturbed one gives; 20 kills: benchmarks/kill_sweep.py."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.kill_sweep import Sweep, differences, resumed

KILLS = 2


@pytest.mark.slow
def test_a_killed_sweep_ends_as_an_undisturbed_one(tmp_path, write_tree):
    counts = {f"{split}/{name}": 4 for split in ("train", "val", "test") for name in "abc"}
    tree = write_tree(tmp_path / "toys", counts)
    overrides = (
        "method=clip_adapter,coop", "seed=1,2", "data=folder", f"data.root={tree}", "clip=tiny", "trainer=cpu",
        "shots=4", "method.batch_size=2", "method.epochs=20", "checkpoint_seconds=0",
    )  # fmt: skip
    whole, killed = (Sweep(tmp_path / name, overrides) for name in ("whole", "killed"))
    work = whole.finish()
    assert len(whole.runs()) == 4
    draw = random.Random(1)
    for _ in range(KILLS):
        assert killed.kill_after(draw.uniform(0.1, work / KILLS / 2)), "it was still at work"
    killed.finish()
    assert differences(whole, killed) == [], killed.killed
    assert sum(resumed(killed).values()) <= KILLS
