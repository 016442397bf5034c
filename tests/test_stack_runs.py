"""Jobs run as a stack against the same jobs run one by one: files, scores, failures, grouping."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file

from mmadapt.config import CONF_DIR, register_resolvers
from mmadapt.hydra_line import BASE
from mmadapt.results import Result
from mmadapt.runner import Job, execute
from mmadapt.stack.groups import groups
from mmadapt.stack.launch import run_stack

register_resolvers()
CHOICES = {"clip": "vit_b16", "data": "folder", "protocol": "few_shot", "trainer": "cpu", "logger": "csv"}
SWEEP = [
    ("seed=1", "shots=2"), ("seed=2", "shots=2"), ("seed=1", "shots=4"), ("seed=2", "shots=2", "lr=0.05"),
    ("seed=1", "shots=2", "lr=0.05", "epochs=4"), ("seed=3", "shots=4"),
]  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory, write_tree):
    root = tmp_path_factory.mktemp("images") / "toys"
    counts = {
        f"{s}/{name}": n for s, n in (("train", 5), ("val", 3), ("test", 4)) for name in ("a", "b", "c")
    }
    return write_tree(root, counts)


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


@pytest.fixture
def job(tmp_path, images, features, small_clip):
    """Compose a job; ``lr`` and ``epochs`` are the method's."""

    def make(folder, *overrides, method="clip_adapter"):
        fixed = [f"method={method}", "data=folder", f"data.root={images}", "trainer=cpu", "clip.arch=small-clip",
                 "clip.pretrained=null", f"paths.features={features}"]  # fmt: skip
        if method not in ("zero_shot", "tip_adapter", "linear_probe"):
            fixed += ["method.epochs=3", "method.batch_size=4"]
        own = [
            o.replace("lr=", "method.optimizer.lr=").replace("epochs=", "method.epochs=") for o in overrides
        ]
        with initialize_config_dir(str(CONF_DIR), **BASE):
            cfg = compose("config", overrides=[*fixed, *own])
        return Job(cfg, {**CHOICES, "method": method}, tmp_path / folder, own)

    return make


def stored(folder):
    return json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize("method", ["clip_adapter", "tip_adapter_f", "xmadapter", "mm_adapter"])
def test_a_stacked_sweep_leaves_what_a_serial_one_leaves(method, job):
    alone = [job(f"alone/{i}", *overrides, method=method) for i, overrides in enumerate(SWEEP)]
    stack = [job(f"stack/{i}", *overrides, method=method) for i, overrides in enumerate(SWEEP)]
    for one in alone:
        execute(one.cfg, one.choices, one.run_dir, one.overrides)
    outcomes = run_stack(stack)
    assert [outcome.status for outcome in outcomes] == ["done"] * len(SWEEP)
    for one, other, outcome in zip(alone, stack, outcomes, strict=True):
        expected, found = stored(one.run_dir), stored(other.run_dir)
        assert found["cost"].pop("stacked") > 1
        assert found.keys() == expected.keys()
        assert found["cost"].keys() == expected["cost"].keys()
        for part in ("key", "data", "config", "fingerprint"):
            assert found[part] == expected[part]
        for name, score in expected["scores"].items():
            assert found["scores"][name] == pytest.approx(score, abs=1e-4)
        assert found["selection"].pop("tuned") == pytest.approx(expected["selection"].pop("tuned"), abs=1e-4)
        assert found["selection"] == expected["selection"]
        assert outcome.result == Result.read(other.run_dir)
        files = [{path.name for path in job.run_dir.iterdir()} for job in (one, other)]
        assert files[0] == files[1]
        weights = [load_file(job.run_dir / "adapter.safetensors") for job in (one, other)]
        assert weights[0].keys() == weights[1].keys()
        for name in weights[0]:
            if "in_proj_bias" not in name:  # key biases: no logit depends on them
                torch.testing.assert_close(weights[1][name], weights[0][name], atol=1e-4, rtol=0)
    assert len({found["fingerprint"] for found in map(stored, (j.run_dir for j in stack))}) == len(SWEEP)


def test_metrics_of_every_epoch_are_logged_and_the_test_scores_after_them(job):
    outcome, _ = run_stack(
        [job("a", "seed=1", method="tip_adapter_f"), job("b", "seed=2", method="tip_adapter_f")]
    )
    header, *rows = (line.split(",") for line in (outcome.run_dir / "metrics.csv").read_text().splitlines())
    rows = [dict(zip(header, row, strict=True)) for row in rows]
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    assert all(float(row["train/loss"]) > 0 and row["val/top1"] for row in rows[:3])
    assert float(rows[3]["test/top1"]) == pytest.approx(outcome.result.scores["test"].top1)
    assert rows[3]["step"] == "3"


def test_one_failure_leaves_the_note_it_leaves_alone_and_the_others_finish(job):
    outcomes = run_stack([job("good", "seed=1"), job("bad", "seed=2", "lr=1e30"), job("fine", "seed=3")])
    assert [outcome.status for outcome in outcomes] == ["done", "failed", "done"]
    bad = job("alone", "seed=2", "lr=1e30")
    with pytest.raises(ValueError, match=r"became|not finite") as failure:
        execute(bad.cfg, bad.choices, bad.run_dir, bad.overrides)
    note, expected = (json.loads((one.run_dir / "failed.json").read_text()) for one in (outcomes[1], bad))
    assert note["error"] == expected["error"]
    assert outcomes[1].error == str(failure.value)
    assert not (outcomes[1].run_dir / "result.json").exists()


def test_what_stops_the_training_fails_the_runs_that_were_not_through(job, monkeypatch):
    from mmadapt.stack import train

    block = train._train_block

    def breaks(runs, stacked):
        if len(runs[0].data.support.labels) > 6:
            raise MemoryError("full")
        block(runs, stacked)

    monkeypatch.setattr(train, "_train_block", breaks)
    outcomes = run_stack([job("a", "shots=2"), job("b", "shots=4"), job("zero", method="zero_shot")])
    assert [(one.status, one.error) for one in outcomes] == [("done", ""), ("failed", "full"), ("done", "")]
    assert "MemoryError: full" in (outcomes[1].run_dir / "failed.json").read_text()


def test_finished_jobs_are_skipped_and_another_configuration_is_refused(job):
    first = run_stack([job("a", "seed=1"), job("b", "seed=2")])
    stamp = (first[0].run_dir / "result.json").stat().st_mtime_ns
    again = run_stack(
        [job("a", "seed=1"), job("b", "seed=2", "lr=0.5"), job("c", "seed=3"), job("c", "seed=4")]
    )
    assert [outcome.status for outcome in again] == ["skipped", "failed", "done", "failed"]
    assert (first[0].run_dir / "result.json").stat().st_mtime_ns == stamp
    assert "another configuration" in again[1].error
    assert "another configuration" in again[3].error
    assert Result.read(first[1].run_dir) == first[1].result


def test_what_cannot_be_stacked_runs_as_ever_beside_a_stack(job):
    jobs = [
        job("zero", method="zero_shot"), job("a", "seed=1"),
        job("noise", "method.block=transformer", method="mm_adapter"),
        job("b", "seed=2"), job("plain", "method.block=mha", method="mm_adapter"),
        job("grad", "seed=3", "+trainer.precision=bf16-mixed"),
    ]  # fmt: skip
    outcomes = run_stack(jobs)
    assert [outcome.status for outcome in outcomes] == ["done"] * 6
    stacked = [outcome.result.cost.get("stacked") for outcome in outcomes]
    assert stacked == [None, 2, None, 2, 1, None]


def test_groups_share_method_clip_data_and_protocol(job):
    each = {
        "a": job("a", "seed=1"), "b": job("b", "seed=2", "shots=2", "lr=0.1", "epochs=9", "tag=x", "logger=none"),
        "ratio": job("ratio", "method.ratio=0.5"), "tip": job("tip", method="tip_adapter_f"),
        "clip": job("clip", "+clip.seed=5"), "data": job("data", "data.name=other"),
        "zero": job("zero", method="zero_shot"),
        "zero2": job("zero2", method="zero_shot"), "coop": job("coop", method="coop"),
        "half": job("half", "+trainer.precision=16-mixed"), "part": job("part", "+trainer.limit_train_batches=1"),
    }  # fmt: skip
    names = {id(job): name for name, job in each.items()}
    found = [[names[id(job)] for job in group] for group in groups(list(each.values()))]
    assert found == [["a", "b", "ratio"], *([name] for name in list(each)[3:])]


def test_groups_read_configurations_only():
    config = {"method": {"_target_": "os.system"}, "trainer": {}}
    assert len(groups([SimpleNamespace(config=config), SimpleNamespace(config=config)])) == 2
