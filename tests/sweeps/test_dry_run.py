"""The dry run says what would happen and leaves no trace; settings that make no sense are refused."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tests.support import ROOT
from tests.support.launching import Command

from mmadapt.errors import UserError
from mmadapt.runs.locks import try_lock
from mmadapt.sweeps.options import LaunchOptions

BASE = ("trainer=cpu", "data=shapes", "clip=vit_b16")


@pytest.fixture
def command(tmp_path):
    return Command(tmp_path)


def test_it_knows_done_open_refused_failed_and_running_and_what_the_open_ones_cost(command):
    command("-m", *BASE, "method=tip_adapter", "seed=1,2", STUB_FAIL="2")
    command(*BASE, "method=tip_adapter", "seed=3", "method.alpha=9")
    lock = try_lock(command.run_dir("tip_adapter", 4) / ".lock")
    before = command.files()
    done = command("-m", *BASE, "method=tip_adapter,zero_shot", "seed=1,2,3,4", "launch.dry_run=true")
    lock.release()
    assert done.returncode == 0, done.stderr
    assert command.files() == before
    lines = {line[14:].split(":")[0].split("shapes/")[-1]: line for line in done.stdout.splitlines()}
    assert lines["tip_adapter/16shot/seed1"].startswith("done ")
    assert lines["tip_adapter/16shot/seed2"].startswith("failed before ")
    assert "seed of trouble" in lines["tip_adapter/16shot/seed2"]
    assert lines["tip_adapter/16shot/seed3"].startswith("refused ")
    assert "holds a result of another configuration (method.alpha: 9" in lines["tip_adapter/16shot/seed3"]
    assert lines["tip_adapter/16shot/seed4"].startswith("running ")
    assert lines["zero_shot/16shot/seed1"].startswith("to do ")
    assert "8 jobs: 1 done, 4 to do, 1 failed before, 1 running, 1 refused." in done.stdout
    assert "Estimated cost: 3 s of computing" in done.stdout
    assert "(1 from other seeds; 4 unknown)" in done.stdout


def test_a_single_run_and_a_grid_without_results(command):
    for arguments in (("seed=1",), ("seed=1,2", "-m")):
        done = command(*BASE, "method=zero_shot", "launch.dry_run=true", *arguments)
        assert done.returncode == 0, done.stderr
        assert "to do         few_shot/vit_b16/shapes/zero_shot/16shot/seed1" in done.stdout
        assert "Estimated cost: unknown" in done.stdout
    done = command("-m", *BASE, "method=zero_shot", "hydra/launcher=basic", "launch.dry_run=true")
    assert "to do" in done.stdout
    assert command.files() == set()


def test_a_grid_with_a_mistake_starts_nothing(command):
    done = command("-m", *BASE, "method=zero_shot", "shots=1,0")
    assert done.returncode == 1
    assert "shots=0 must be a whole number" in done.stderr
    assert command.files() == set()


def test_planning_imports_no_torch(tmp_path):
    code = (
        "import sys; sys.argv = ['mmadapt', '-m', 'method=zero_shot', 'seed=1,2', 'launch.dry_run=true']\n"
        "from mmadapt.app import main; main(); assert not {'torch', 'lightning', 'pandas'} & sys.modules.keys()"
    )
    subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=True, env={"PYTHONPATH": str(ROOT / "src")}
    )


@pytest.mark.parametrize(("node", "message"), [
    ({"jobs": 0}, "launch.jobs=0 must be a whole number"),
    ({"jobs": "many"}, "launch.jobs='many' must be a whole number"),
    ({"isolate": 1}, "launch.isolate=1 must be true or false"),
    ({"devices": "gpu"}, "launch.devices='gpu' must be auto, null or a list"),
    ({"devices": []}, "must name each device once"),
    ({"devices": [0, 0]}, r"launch.devices=\[0,0\] must name each device once"),
    ({"isolat": True}, "did you mean 'isolate'"),
])  # fmt: skip
def test_settings_that_make_no_sense_are_refused(node, message):
    with pytest.raises(UserError, match=message):
        LaunchOptions.read(node)


def test_settings_are_checked_on_the_command_line(command):
    done = command("-m", *BASE, "launch.jobs=none")
    assert done.returncode == 1
    assert "mmadapt: launch.jobs='none' must be a whole number" in done.stderr
    assert command.files() == set()
