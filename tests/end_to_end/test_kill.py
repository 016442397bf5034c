"""A sweep that is killed and started again gives what an undisturbed one gives; 20 kills: benchmarks/kill_sweep.py."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from benchmarks.kill_sweep import Sweep, differences, resumed

RUN = "few_shot/tiny/toys/{}/4shot/seed1"
MOMENTS = [  # what is seen of which method when the sweep is killed
    ("encoding", "*/*.safetensors"),
    ("clip_adapter", "last.ckpt"),
    ("coop", "last.ckpt"),
]


@pytest.mark.slow
def test_a_killed_sweep_ends_as_an_undisturbed_one(tmp_path, write_tree):
    counts = {f"{split}/{name}": 4 for split in ("train", "val", "test") for name in "abc"}
    tree = write_tree(tmp_path / "toys", counts)
    overrides = (
        "method=clip_adapter,coop", "seed=1", "data=folder", f"data.root={tree}", "clip=tiny", "trainer=cpu",
        "shots=4", "method.batch_size=2", "method.epochs=40", "checkpoint_seconds=0",
    )  # fmt: skip
    whole, killed = (Sweep(tmp_path / name, overrides) for name in ("whole", "killed"))
    with ThreadPoolExecutor(1) as beside:
        undisturbed = beside.submit(whole.finish)
        for method, file in MOMENTS:
            root = (
                killed.root / "features"
                if method == "encoding"
                else killed.results / "main" / RUN.format(method)
            )
            assert killed.kill_when(lambda root=root, file=file: any(root.glob(file))), "it was still at work"
        killed.finish()
        undisturbed.result()
    assert len(whole.runs()) == 2
    assert differences(whole, killed) == [], killed.killed
    assert resumed(killed) == {"main/" + RUN.format(method): 1 for method in ("clip_adapter", "coop")}, (
        killed.killed
    )
