"""An interrupted training goes on from its checkpoint and ends as one that was never interrupted."""

from __future__ import annotations

import logging

import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file

from mmadapt.config.hydra_versions import BASE
from mmadapt.config.paths import CONF_DIR
from mmadapt.config.schema import register_resolvers
from mmadapt.errors import UserError
from mmadapt.methods.base import Method
from mmadapt.results import CHECKPOINT_FILE, Result
from mmadapt.runs.job import execute
from mmadapt.training import checkpoint

register_resolvers()
CHOICES = {"clip": "vit_b16", "data": "folder", "protocol": "few_shot", "trainer": "cpu", "logger": "csv"}
SGD = ("method.optimizer={_target_: torch.optim.SGD, _partial_: true, lr: 0.1, momentum: 0.9}",)
METHODS = {
    "clip_adapter": ("method.epochs=6",),
    "clip_adapter with SGD, rates by epoch": (*SGD, "method.epochs=6", "method.schedule_by=epoch"),
    "tip_adapter_f": ("method.epochs=6",),
    "mm_adapter": ("method.epochs=8", "method.block=transformer", "method.dropout=0.3", "method.mask=soft",
                   "method.selection=best_val", "method.patience=3", "method.optimizer.lr=0.01"),
    "coop": ("method.epochs=4",),
    "maple": ("method.epochs=3", "method.depth=2", "method.selection=best_val"),
}  # fmt: skip


class Killed(BaseException):
    """Stands for the end of the process: nothing in the package handles it."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory, write_tree):
    counts = {f"{split}/{name}": 4 for split in ("train", "val", "test") for name in ("a", "b", "c")}
    return write_tree(tmp_path_factory.mktemp("images") / "toys", counts)


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


@pytest.fixture
def run(tmp_path, tree, features, small_clip):
    """Run a method in a folder of tmp_path."""

    def execute_with(method, folder, *overrides):
        base = [f"method={method}", "data=folder", f"data.root={tree}", "trainer=cpu", "shots=4", "seed=3",
                "clip.arch=small-clip", "clip.pretrained=null", f"paths.features={features}",
                "method.batch_size=5", "checkpoint_seconds=0"]  # fmt: skip
        with initialize_config_dir(str(CONF_DIR), **BASE):
            cfg = compose("config", overrides=[*base, *overrides])
        return execute(cfg, {**CHOICES, "method": method}, tmp_path / folder, list(overrides))

    return execute_with


@pytest.fixture
def kill_in(monkeypatch):
    """End training in the middle of an epoch, counted from 1, when its first batch has been trained on."""

    def at(epoch):
        original, before = Method.training_step, torch.initial_seed()

        def training_step(self, batch, batch_idx):
            if self.current_epoch + 1 == epoch and batch_idx == 1:
                torch.rand(7)
                raise Killed(str(before))
            return original(self, batch, batch_idx)

        with monkeypatch.context() as patch:
            patch.setattr(Method, "training_step", training_step)
            yield

    from contextlib import contextmanager

    return contextmanager(at)


def without_seconds(result):
    return result.scores, result.selection, result.data, result.fingerprint


@pytest.mark.parametrize("case", METHODS)
def test_it_ends_as_if_never_interrupted(case, run, kill_in, caplog):
    method, options = case.split()[0], METHODS[case]
    whole = run(method, "whole", *options)
    for epoch in (2, 3):  # killed twice
        with kill_in(epoch), pytest.raises(Killed):
            run(method, "killed", *options)
    folder = whole.run_dir.parent / "killed"
    assert (folder / CHECKPOINT_FILE).exists()
    saved = checkpoint.load(folder / CHECKPOINT_FILE)
    assert saved["epoch"] == 2
    assert not [key for key in saved["weights"] if key.startswith("clip.")]
    again = run(method, "killed", *options)
    assert "goes on after epoch 2 of" in caplog.text
    assert without_seconds(again.result) == without_seconds(whole.result)
    assert again.result.cost["resumed"] == 2
    assert again.result.cost["train_seconds"] > saved["seconds"]
    assert "resumed" not in whole.result.cost
    weights, others = (load_file(each.run_dir / "adapter.safetensors") for each in (again, whole))
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[key], others[key]) for key in weights)
    curves = [(each.run_dir / "metrics.csv").read_text() for each in (again, whole)]
    assert curves[0] == curves[1]
    for each in (again, whole):
        assert not [path.name for path in each.run_dir.iterdir() if path.name.startswith((".", "last"))]


def test_it_would_differ_without_the_state_of_dropout(run, kill_in, monkeypatch):
    """That the test above can fail: with other random numbers mm_adapter does not come out the same."""
    options = (*METHODS["mm_adapter"], "method.selection=last")
    whole = run("mm_adapter", "whole", *options)
    with kill_in(3), pytest.raises(Killed):
        run("mm_adapter", "killed", *options)
    monkeypatch.setattr(checkpoint, "set_random_state", lambda state: None)
    again = run("mm_adapter", "killed", *options)
    assert again.result.scores["test"].nll != whole.result.scores["test"].nll


def test_a_run_that_is_killed_after_its_last_epoch_trains_no_more(run, monkeypatch):
    options = METHODS["mm_adapter"]
    whole = run("mm_adapter", "whole", *options)
    assert whole.result.selection["epoch"] + 3 < 8, "patience stopped it early"
    with monkeypatch.context() as patch:
        patch.setattr("mmadapt.runs.experiment.select", lambda *a: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            run("mm_adapter", "killed", *options)
    monkeypatch.setattr(Method, "training_step", lambda *a: pytest.fail("trained on"))
    again = run("mm_adapter", "killed", *options)
    assert without_seconds(again.result) == without_seconds(whole.result)


@pytest.mark.parametrize("damage", ["cut off", "one bit", "empty", "no zip"])
def test_a_damaged_checkpoint_is_removed_and_training_starts_at_the_beginning(damage, run, kill_in, caplog):
    whole = run("clip_adapter", "whole", "method.epochs=3")
    with kill_in(3), pytest.raises(Killed):
        run("clip_adapter", "killed", "method.epochs=3")
    file = whole.run_dir.parent / "killed" / CHECKPOINT_FILE
    content = bytearray(file.read_bytes())
    position = content.find(load_bytes(file))
    content[position + 5] ^= 64
    file.write_bytes(
        {"cut off": content[:2000], "one bit": content, "empty": b"", "no zip": b"x" * 99}[damage]
    )
    again = run("clip_adapter", "killed", "method.epochs=3")
    assert "cannot be read" in caplog.text
    assert "training starts at the beginning" in caplog.text
    assert without_seconds(again.result) == without_seconds(whole.result)
    assert "resumed" not in again.result.cost


def load_bytes(file):
    """Return the bytes of a weight as they lie in the file."""
    weights = checkpoint.load(file)["weights"]
    return next(iter(weights.values())).numpy().tobytes()[:64]


@pytest.mark.parametrize(("override", "what"), [
    ("method.ratio=0.4", "fingerprint"), ("data.split_seed=8", "draw and fingerprint"),
])  # fmt: skip
def test_a_checkpoint_of_another_configuration_is_not_used(override, what, run, kill_in, caplog):
    with kill_in(3), pytest.raises(Killed):
        run("clip_adapter", "killed", "method.epochs=3", "shots=2")
    again = run("clip_adapter", "killed", "method.epochs=3", "shots=2", override)
    assert f"is of another {what} and is removed" in caplog.text
    alone = run("clip_adapter", "alone", "method.epochs=3", "shots=2", override)
    assert without_seconds(again.result) == without_seconds(alone.result)


def test_it_saves_only_after_so_many_seconds_and_never_with_null(run, monkeypatch):
    written = []
    monkeypatch.setattr(checkpoint, "write", lambda path, content: written.append(content["epoch"]))
    run("clip_adapter", "long", "method.epochs=3", "checkpoint_seconds=1000")
    run("clip_adapter", "never", "method.epochs=3", "checkpoint_seconds=null")
    assert written == []
    run("clip_adapter", "each", "method.epochs=3")
    assert written == [1, 2, 3]
    for value in (-1, "true", "often"):
        with pytest.raises(UserError, match="a number of at least 0, or null"):
            run("clip_adapter", "wrong", f"checkpoint_seconds={value}")


def test_how_often_it_saves_is_no_part_of_the_configuration_of_a_result(run):
    assert run("clip_adapter", "a", "method.epochs=1").status == "done"
    assert run("clip_adapter", "a", "method.epochs=1", "checkpoint_seconds=7").status == "skipped"


def test_a_full_disk_is_a_warning(run, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr("torch.save", full)
        outcome = run("clip_adapter", "full", "method.epochs=2")
    assert "No space left on device. Training goes on without it." in caplog.text
    assert Result.read(outcome.run_dir) == outcome.result


def test_what_is_left_of_a_kill_just_before_the_end_is_removed(run):
    folder = run("clip_adapter", "a", "method.epochs=1").run_dir
    for name in (".lock", CHECKPOINT_FILE, ".result.json.x.tmp"):
        (folder / name).touch()
    assert run("clip_adapter", "a", "method.epochs=1").status == "skipped"
    assert not [path.name for path in folder.iterdir() if path.name.startswith((".", "last"))]
