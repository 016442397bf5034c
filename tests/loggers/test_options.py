"""Options of the loggers, when W&B is offline, what it shows on request, and what it leaves behind."""

from __future__ import annotations

import importlib.util
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.wandb_files import read_runs

from mmadapt.errors import UserError
from mmadapt.loggers import wandb_run
from mmadapt.loggers.guard import open_loggers, read_details
from mmadapt.loggers.wandb_objects import MAX_CELLS, class_table, confusion_matrix, reliability_diagram
from mmadapt.results import Result, RunKey, Score

KEY = RunKey("main", "base_to_new", "tiny", "toys", "coop", 4, 1)
SCORE = Score(top1=0.75, top1_macro=0.7, top5=1.0, nll=0.5, ece=0.1, correct=3, total=4, classes=2)
DETAILS = {
    "classes": ["cat", "dog"], "correct": [2, 1], "total": [2, 2], "confusion": [[2, 0], [1, 1]],
    "reliability": {"count": [0, 3, 1], "confidence": [0.0, 0.5, 0.9], "accuracy": [0.0, 0.6, 1.0]},
}  # fmt: skip


OPEN = "mmadapt.loggers.wandb_run.open_wandb"


@pytest.fixture
def finished(tmp_path):
    """Log a made-up finished run with the given options; return what W&B holds of it."""

    def log(details: dict, **options):
        node = {"wandb": {"_target_": OPEN, "mode": "offline", "project": "p", "entity": None, **options}}
        scores = {"base": SCORE, "new": SCORE}
        result = Result(
            KEY, scores, {"rule": "none", "tuned": {"alpha": 2.0}}, {}, {"trainable_params": 8}, "f", {}
        )
        run_dir = tmp_path / "run"
        run_dir.mkdir()
        (run_dir / "details.json").write_text(json.dumps({"schema": 1, "sets": details}))
        config = {"paths": {"results": str(tmp_path)}, "shots": 4}
        with open_loggers(node, KEY, config, run_dir) as loggers:
            loggers.finish(result)
        (logged,) = read_runs(tmp_path)
        return logged

    return log


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"wandb": {"entty": "me"}}, r"logger\.wandb\.entty is not a parameter.*did you mean 'entity'"),
        ({"csv": "yes"}, r"logger\.csv='yes' is no logger"),
        ({"mode": "offline"}, r"logger\.mode='offline' is no logger.*logger\.wandb\.mode"),
        ({"wandb": {"table": 1}}, r"logger\.wandb\.table=1 must be true or false"),
        ({"wandb": {"mode": "ofline"}}, r"logger\.wandb\.mode='?ofline'?.*did you mean 'offline'"),
        ({"wandb": {"upload_timeout": 0}}, r"logger\.wandb\.upload_timeout=0 must be a number of seconds"),
    ],
)
def test_unknown_options_are_refused_by_name(node, message, tmp_path):
    if isinstance(node.get("wandb"), dict):
        node = {"wandb": {"_target_": OPEN, **node["wandb"]}}
    with pytest.raises(UserError, match=message):
        open_loggers(node, KEY, {}, tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["logger=wandb", "logger.wandb.entty=me"], "did you mean 'entity'"),
        (["logger=[csv,wandbb]"], "logger=wandbb does not exist (did you mean 'wandb'?)"),
    ],
)
def test_mistakes_on_the_command_line_are_explained(words, message, tmp_path):
    command = [sys.executable, "-m", "mmadapt", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr


def test_a_missing_package_is_named_with_its_extra(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'mmadapt\[tensorboard\]'"):
        open_loggers(
            {"tensorboard": {"_target_": "mmadapt.loggers.files.TensorBoardCurves"}}, KEY, {}, tmp_path
        )


def test_offline_without_a_key_unless_the_user_says_otherwise(monkeypatch, tmp_path, caplog):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE", "NETRC", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for _ in range(2):
        assert wandb_run.choose_mode(None, tmp_path) == "offline"
    assert caplog.text.count("no API key, so runs are kept offline. To upload: wandb sync") == 1
    assert wandb_run.choose_mode("disabled", tmp_path) == "disabled"
    with pytest.raises(UserError, match=r"logger\.wandb\.mode=online needs an API key.*wandb login"):
        wandb_run.choose_mode("online", tmp_path)
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
    assert wandb_run.choose_mode(None, tmp_path) is None
    assert wandb_run.choose_mode("online", tmp_path) == "online"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert wandb_run.choose_mode(None, tmp_path) == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert wandb_run.choose_mode(None, tmp_path) is None
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert wandb_run.choose_mode(None, tmp_path) is None
    assert wandb_run.choose_mode("online", tmp_path) == "online"


def test_a_run_id_is_a_function_of_the_whole_key_and_safe_for_wandb():
    changed = [
        RunKey(**{**vars(KEY), name: 7 if isinstance(value, int) else "x"})
        for name, value in vars(KEY).items()
    ]
    ids = {wandb_run.run_id(key) for key in (KEY, RunKey(**vars(KEY)), *changed)}
    assert len(ids) == 1 + len(vars(KEY))
    assert all(identity.isalnum() for identity in ids)


def test_every_scored_set_is_in_the_summary(finished):
    logged = finished({})
    assert logged.summary["base/top1"] == logged.summary["new/top1"] == 0.75
    assert logged.summary["new/total"] == 4
    assert logged.summary["tuned/alpha"] == 2.0
    assert logged.summary["cost/trainable_params"] == 8
    assert logged.run.job_type == "base_to_new"
    assert not [key for key in logged.summary if "confusion" in key or "results" in key]


def test_objects_are_logged_on_request(finished, caplog):
    logged = finished({"base": DETAILS}, table=True, confusion_matrix=True, reliability=True)
    (scores,) = logged.folder.rglob("media/table/results_*.json")
    assert json.loads(scores.read_text())["data"][0][:2] == ["base", 75.0]
    (classes,) = logged.folder.rglob("media/table/base/classes_*.json")
    assert json.loads(classes.read_text())["data"] == [["cat", 2, 2, 100.0], ["dog", 1, 2, 50.0]]
    (cells,) = logged.folder.rglob("media/table/base/confusion_matrix_table_*.json")
    assert ["dog", "cat", 1] in json.loads(cells.read_text())["data"]
    assert list(logged.folder.rglob("media/table/base/reliability_table_*.json"))
    assert "wandb/confusion_matrix/v1" in str(logged.charts)
    for what in ("confusion matrix", "reliability diagram", "table of classes"):
        assert f"W&B shows no {what} of 'new': details.json of the run lacks" in caplog.text
    assert logged.exit_code == 0


def test_charts_hold_what_was_counted():
    cells = confusion_matrix(DETAILS["classes"], DETAILS["confusion"], "t").table.data
    assert cells == [["cat", "cat", 2], ["cat", "dog", 0], ["dog", "cat", 1], ["dog", "dog", 1]]
    lines = reliability_diagram(DETAILS["reliability"], "t").table.data
    assert [row[1:] for row in lines if row[1] == "accuracy"] == [["accuracy", 0.6], ["accuracy", 1.0]]
    assert class_table({"classes": ["a"], "correct": [0], "total": [0]}).data == [["a", 0, 0, None]]
    many = MAX_CELLS + 1
    large = confusion_matrix([str(i) for i in range(many)][:101], [[1] * 101] * 101, "t")
    assert len(large.table.data) == MAX_CELLS
    assert "10000 of 10201" in large.spec.string_fields["title"]


def test_unreadable_details_are_a_warning(tmp_path, caplog):
    (tmp_path / "details.json").write_text("{")
    with caplog.at_level(logging.WARNING):
        assert read_details(tmp_path) == {}
    assert "cannot be read" in caplog.text


MANY_RUNS = """
import os, subprocess, sys
from pathlib import Path
from mmadapt.loggers.guard import open_loggers
from mmadapt.results import RunKey

CSV = {"_target_": "mmadapt.loggers.files.CsvCurves"}
WANDB = {"_target_": "mmadapt.loggers.wandb_run.open_wandb", "mode": "offline"}

def run(kind, seed):
    key = RunKey("t", "p", "c", "d", "m", 1, seed)
    node = {kind: CSV if kind == "csv" else WANDB}
    with open_loggers(node, key, {"paths": {"results": "."}}, Path.cwd()) as loggers:
        loggers.all[0].log_metrics({"train/loss": 1.0, "epoch": 0}, 0)

def held():
    children = subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "comm="], capture_output=True, text=True)
    return len(os.listdir("/proc/self/fd")), children.stdout.count("wandb")

run("csv", 0)  # timm, which open_clip imports for some towers, imports wandb on its own
print("wandb" in sys.modules)
for seed in range(2):
    run("wandb", seed)
print(*held())
for seed in range(2, 7):
    run("wandb", seed)
print(*held())
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files in /proc")
def test_wandb_is_imported_on_demand_and_many_runs_hold_no_more_files_than_few(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_SERVICE", raising=False)  # else it would share the process of this one
    command = [sys.executable, "-c", MANY_RUNS]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    imported, few, many = done.stdout.splitlines()
    assert imported == "False"
    assert few == many
    assert len(read_runs(tmp_path)) == 7
