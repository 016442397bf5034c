"""Loggers in whole runs: what W&B, TensorBoard and CSV hold afterwards, and that none of them matters."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import wandb
from hydra import compose, initialize_config_dir
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.support.wandb_files import read_runs

from mmadapt.config.hydra_versions import BASE
from mmadapt.config.paths import CONF_DIR
from mmadapt.config.schema import register_resolvers
from mmadapt.errors import UserError
from mmadapt.results import Result
from mmadapt.runs.job import execute

register_resolvers()
CHOICES = {"clip": "tiny", "data": "folder", "protocol": "few_shot", "trainer": "cpu"}
TINY = ["clip=tiny", "data=folder", "data.name=toys", "shots=1", "trainer=cpu"]


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="module")
def images(tmp_path_factory, write_tree):
    counts = {f"{split}/{name}": 3 for split in ("train", "val", "test") for name in "abc"}
    return write_tree(tmp_path_factory.mktemp("images") / "toys", counts)


@pytest.fixture
def run(tmp_path, images, features):
    def execute_with(*overrides, method="clip_adapter", folder="run"):
        words = [*TINY, f"data.root={images}", f"method={method}", f"paths.features={features}"]
        words += [f"paths.results={tmp_path}", *(["method.epochs=2"] if method == "clip_adapter" else [])]
        with initialize_config_dir(str(CONF_DIR), **BASE):
            cfg = compose("config", overrides=[*words, *overrides])
        return execute(cfg, {**CHOICES, "method": method}, tmp_path / folder, list(overrides))

    return execute_with


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, images, features):
    """Two jobs of one process with three loggers; the timeout is the test that nothing hangs at its end."""
    results = tmp_path_factory.mktemp("sweep")
    command = [sys.executable, "-m", "mmadapt", "-m", *TINY, "method=tip_adapter,clip_adapter",
               f"data.root={images}", "logger=[csv,wandb,tensorboard]", "logger.wandb.mode=offline",
               "logger.wandb.project=proj", "tag=a/b",
               f"paths.results={results}", f"paths.features={features}"]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=results, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr
    return results, done


@pytest.mark.slow
def test_two_jobs_of_a_process_are_two_wandb_runs(sweep):
    results, _ = sweep
    first, second = read_runs(results)
    assert first.id != second.id
    for logged, method in ((first, "tip_adapter"), (second, "clip_adapter")):
        assert logged.exit_code == 0
        assert logged.run.project == "proj"
        assert logged.run.run_group == f"{method}-toys-1shot"
        assert logged.run.display_name == f"{method}-toys-1shot-seed1"
        assert logged.run.job_type == "few_shot"
        assert set(logged.run.tags) == {method, "toys", "tiny", "few_shot", "a/b"}
        assert not logged.run.resumed
        folder = results / "a" / "b" / "few_shot" / "tiny" / "toys" / method / "1shot" / "seed1"
        stored = json.loads((folder / "result.json").read_text())
        assert {key: logged.config[key] for key in stored["config"]} == stored["config"]
        assert logged.config["run"] == {**stored["key"], "fingerprint": stored["fingerprint"]}
        for metric, value in stored["scores"]["test"].items():
            if not isinstance(value, str):
                assert logged.summary[f"test/{metric}"] == value
        for name, value in stored["cost"].items():
            assert logged.summary[f"cost/{name}"] == value
        assert logged.summary["selection/rule"] == stored["selection"]["rule"]
        final = logged.history[-1]
        assert (final["shots"], final["test/top1"]) == (1, stored["scores"]["test"]["top1"])


@pytest.mark.slow
def test_a_training_method_logs_its_loss_in_every_epoch(sweep):
    results, _ = sweep
    tip, clip = read_runs(results)
    losses = [(row["epoch"], row["train/loss"]) for row in clip.history if "train/loss" in row]
    assert [epoch for epoch, _ in losses] == list(range(clip.config["method"]["epochs"]))
    assert len({loss for _, loss in losses}) > 1
    assert not [row for row in tip.history if "train/loss" in row]
    (table,) = results.rglob("clip_adapter/**/metrics.csv")
    rows = [row for row in csv.DictReader(table.open()) if row["train/loss"]]
    assert [float(row["train/loss"]) for row in rows] == pytest.approx([loss for _, loss in losses])


@pytest.mark.slow
def test_tensorboard_holds_curves_final_scores_and_the_configuration(sweep):
    results, _ = sweep
    (folder,) = results.rglob("clip_adapter/**/tensorboard")
    events = EventAccumulator(str(folder))
    events.Reload()
    _, clip = read_runs(results)
    losses = [row["train/loss"] for row in clip.history if "train/loss" in row]
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(losses)
    (final,) = events.Scalars("final/test/top1")
    assert final.value == pytest.approx(clip.summary["test/top1"])
    assert final.step == len(losses)
    (text,) = events.Tensors("config/text_summary")
    assert b"mmadapt.methods.clip_adapter.ClipAdapter" in text.tensor_proto.string_val[0]


@pytest.mark.slow
def test_nothing_but_the_jobs_is_printed(sweep):
    _, done = sweep
    assert "wandb" not in done.stdout + done.stderr


def test_validation_curves_are_logged(run, tmp_path):
    outcome = run("logger=wandb", "logger.wandb.mode=offline", "method.selection=best_val")
    (logged,) = read_runs(tmp_path)
    curve = [row["val/top1"] for row in logged.history if "val/top1" in row]
    assert len(curve) == 2
    assert max(curve) == pytest.approx(outcome.result.selection["val_top1"])
    assert logged.summary["selection/val_top1"] == outcome.result.selection["val_top1"]


def test_a_crash_ends_the_wandb_run_as_failed_and_the_next_job_has_one_of_its_own(run, tmp_path):
    with pytest.raises(UserError, match=r"became|not finite"):
        run("logger=wandb", "logger.wandb.mode=offline", "method.optimizer.lr=1e30", folder="crash")
    run("logger=wandb", "logger.wandb.mode=offline", method="zero_shot", folder="next")
    crashed, following = read_runs(tmp_path)
    assert (crashed.exit_code, following.exit_code) == (1, 0)
    assert crashed.id != following.id
    assert "test/top1" not in crashed.summary
    assert wandb.run is None


def test_a_rerun_replaces_the_wandb_run_of_the_same_id(run, tmp_path):
    options = ("logger=[csv,wandb]", "logger.wandb.mode=offline")
    run(*options)
    (first,) = read_runs(tmp_path)
    run(*options, "method.epochs=1", "overwrite=true")
    (again,) = read_runs(tmp_path)
    assert again.id == first.id
    assert again.config["method"]["epochs"] == 1
    assert len([row for row in again.history if "train/loss" in row]) == 1
    assert not again.run.resumed
    run(*options, "method.epochs=2", "overwrite=true", "logger.wandb.suffix=kept")
    assert sorted(logged.id for logged in read_runs(tmp_path)) == [first.id, f"{first.id}-kept"]


def test_no_logger_changes_a_number(run):
    plain = run("logger=none", folder="plain")
    shown = run(
        "logger=[csv,tensorboard,wandb]",
        "logger.wandb.mode=offline",
        "logger.wandb.table=true",
        folder="shown",
    )
    assert plain.result.scores == shown.result.scores
    assert plain.result.fingerprint == shown.result.fingerprint
    assert {"metrics.csv", "tensorboard"}.isdisjoint(p.name for p in plain.run_dir.iterdir())


@pytest.mark.parametrize("broken", ["log", "finish"])
def test_a_failing_wandb_costs_a_warning_and_no_result(broken, run, monkeypatch, caplog):
    def fail(*args, **kwargs):
        raise wandb.errors.CommError("no route to host")

    with monkeypatch.context() as patch:
        patch.setattr(wandb.Run, broken, fail)
        outcome = run("logger=[csv,wandb]", "logger.wandb.mode=offline")
    wandb.teardown()  # ends the run whose finish failed
    assert Result.read(outcome.run_dir) == outcome.result
    assert caplog.text.count("W&B stopped with CommError: no route to host") == 1
    assert not (outcome.run_dir / "failed.json").exists()


def test_a_server_out_of_reach_means_offline_for_the_rest_of_the_sweep(run, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    start, modes = wandb.init, []

    def init(**arguments):
        modes.append(arguments["mode"])
        if arguments["mode"] != "offline":
            raise wandb.errors.CommError("connection refused\nmore")
        return start(**arguments)

    monkeypatch.setattr(wandb, "init", init)
    run("logger=wandb", method="zero_shot", folder="one")
    run("logger=wandb", method="tip_adapter", folder="two")
    assert modes == [None, "offline", "offline"]
    assert [logged.exit_code for logged in read_runs(tmp_path)] == [0, 0]
    assert caplog.text.count("connection refused). The run goes on offline") == 1


def test_a_user_may_bring_another_logger_of_lightning(run, tmp_path):
    words = ("+logger.more._target_=lightning.pytorch.loggers.CSVLogger", "+logger.more.name=mine")
    outcome = run("logger=none", *words)
    (table,) = Path(outcome.run_dir / "mine").rglob("metrics.csv")
    assert "train/loss" in table.read_text()
    with pytest.raises(UserError, match=r"logger\.more\.nam is not a parameter of CSVLogger"):
        run("logger=none", words[0], "+logger.more.nam=mine", folder="typo")
