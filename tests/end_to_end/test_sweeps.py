"""Sweeps as real processes around a stub of the experiment: children, locks, failures, Ctrl-C."""

from __future__ import annotations

import itertools
import json
import signal
import time

import pytest
from tests.support.launching import Command

from mmadapt.results import Result

pytestmark = pytest.mark.slow

CPU = ("trainer=cpu", "method=zero_shot", "clip=vit_b16", "data=shapes")


@pytest.fixture
def command(tmp_path):
    return Command(tmp_path)


def seeds(command):
    return sorted(int(run[1]) for run in command.computed())


def wait_for(command, text):
    deadline = time.monotonic() + 120
    while not (command.log.exists() and text in command.log.read_text()):
        assert time.monotonic() < deadline, f"{text!r} never happened"
        time.sleep(0.05)


@pytest.mark.parametrize("launcher", ["mmadapt", "basic"])
@pytest.mark.parametrize("isolate", ["false", "true"])
def test_a_failing_job_leaves_its_neighbours_and_a_second_sweep_computes_only_it(launcher, isolate, command):
    line = ("-m", *CPU, "seed=1,2,3", f"launch.isolate={isolate}", f"hydra/launcher={launcher}")
    first = command(*line, STUB_FAIL="2")
    assert first.returncode == 1
    assert "3 jobs: 2 done, 0 already done, 1 failed." in first.stdout
    assert "seed of trouble" in first.stderr
    assert "Error executing job" not in first.stderr
    assert seeds(command) == [1, 3]
    note = json.loads((command.run_dir("zero_shot", 2) / "failed.json").read_text())
    assert note["error"] == "RuntimeError: seed of trouble"
    if isolate == "true":
        assert str(command.run_dir("zero_shot", 2) / "failed.json") in first.stderr
        assert len({run[5] for run in command.computed()}) == 2, "each job has a process of its own"
    assert command(*line).returncode == 0
    assert seeds(command) == [1, 2, 3]
    assert not list(command.cwd.rglob(".lock"))
    stored = [Result.read(command.run_dir("zero_shot", seed)) for seed in (1, 2, 3)]
    assert {result.provenance["command"] for result in stored} == {
        f"python -m mmadapt trainer=cpu method=zero_shot clip=vit_b16 data=shapes seed={seed}" for seed in (1, 2, 3)
    }  # fmt: skip
    assert all("launch" not in result.config for result in stored)


def test_a_job_of_several_processes_runs_in_a_child_whatever_the_options_say(command):
    done = command("-m", *CPU, "seed=1,2", "trainer.devices=1,2")
    assert done.returncode == 0, done.stderr
    assert "4 jobs: 2 done, 2 already done" in done.stdout, "devices change no number: one folder for both"
    done = command("-m", *CPU, "seed=3,4", "trainer.devices=2")
    assert done.returncode == 0, done.stderr
    processes = {run[1]: run[5] for run in command.computed()}
    assert processes["1"] == processes["2"]
    assert len({*processes.values()}) == 3


def test_a_killed_child_is_noted_and_starts_again(command):
    killed = command("-m", *CPU, "seed=1,2", "launch.isolate=true", STUB_KILL="1")
    assert killed.returncode == 1
    assert "SIGKILL" in killed.stderr
    folder = command.run_dir("zero_shot", 1)
    assert "SIGKILL" in json.loads((folder / "failed.json").read_text())["error"]
    (folder / ".result.json.abc.tmp").write_text('{"schema":')
    again = command("-m", *CPU, "seed=1,2", "launch.isolate=true")
    assert again.returncode == 0, again.stderr
    assert "was left unfinished by pid" not in again.stdout
    assert {path.name for path in folder.iterdir()} >= {"result.json", "config.yaml", "run.log"}
    assert not [
        path.name for path in folder.iterdir() if path.name.startswith(".") or path.name == "failed.json"
    ]


def test_two_sweeps_share_the_work_and_each_ends_with_all_of_it(command):
    line = ("-m", *CPU, "seed=1,2,3,4,5,6")
    both = [command.start(*line, STUB_SECONDS="1") for _ in range(2)]
    out = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], out
    assert seeds(command) == [1, 2, 3, 4, 5, 6], "no run twice, none lost"
    assert len({run[5] for run in command.computed()}) == 2, "both took part"
    for text, _ in out:
        assert "0 failed" in text
        assert "6 jobs" in text


def test_a_single_run_waits_for_the_process_that_computes_it(command):
    first = command.start(*CPU, STUB_SECONDS="6")
    wait_for(command, "begin")
    second = command(*CPU)
    first.communicate(timeout=60)
    assert second.returncode == 0
    assert f"is being computed by pid {first.pid} on " in second.stderr
    assert "finished before" in second.stdout
    assert len(command.computed()) == 1


@pytest.mark.parametrize("options", [(), ("launch.jobs=2",)])
def test_ctrl_c_ends_the_sweep_with_130_and_a_later_one_starts_where_it_stopped(options, command):
    line = ("-m", *CPU, "seed=1,2,3", *options)
    sweep = command.start(*line, STUB_SECONDS="60")
    for seed in range(1, 3 if options else 2):
        wait_for(command, f"begin zero_shot {seed}")
    sweep.send_signal(signal.SIGINT)
    out, err = sweep.communicate(timeout=30)
    assert sweep.returncode == 130, err
    assert "not started" in out
    assert "KeyboardInterrupt" in (command.run_dir("zero_shot", 1) / "failed.json").read_text()
    assert not list(command.cwd.rglob(".lock")), "children have ended and freed their locks"
    again = command(*line)
    assert again.returncode == 0, again.stderr
    assert seeds(command) == [1, 2, 3]


def test_a_killed_sweep_leaves_a_lock_that_is_free(command):
    sweep = command.start("-m", *CPU, "seed=1,2", STUB_SECONDS="60")
    wait_for(command, "begin")
    sweep.kill()
    sweep.communicate()
    assert (command.run_dir("zero_shot", 1) / ".lock").exists()
    again = command("-m", *CPU, "seed=1,2")
    assert again.returncode == 0
    assert f"was left unfinished by pid {sweep.pid}" in again.stderr
    assert not list(command.cwd.rglob(".lock"))


def test_fail_fast_lists_what_was_not_started(command):
    done = command("-m", *CPU, "seed=1,2,3,4", "launch.fail_fast=true", STUB_FAIL="2")
    assert done.returncode == 1
    assert "4 jobs: 1 done, 0 already done, 1 failed, 2 not started." in done.stdout
    assert f"not started: {command.run_dir('zero_shot', 4)}" in done.stdout
    assert seeds(command) == [1]


def test_jobs_side_by_side_never_share_a_device_not_even_between_sweeps(command):
    line = ("-m", "trainer=default", *CPU[1:], "launch.jobs=2", "launch.devices=[0,1]")
    first = command.start(*line, "seed=1,2,3", STUB_SECONDS="1.5")
    second = command.start(*line, "seed=4,5", STUB_SECONDS="1.5")
    for process in (first, second):
        _, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
    runs = command.computed()
    assert seeds(command) == [1, 2, 3, 4, 5]
    assert {run[2] for run in runs} == {"0", "1"}
    for device in "01":
        spans = sorted((float(run[3]), float(run[4])) for run in runs if run[2] == device)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans)), spans


def test_runs_side_by_side_follow_each_other_in_two_processes(command):
    done = command("-m", *CPU, "seed=1,2,3,4,5,6", "launch.jobs=2", STUB_SECONDS="1", STUB_FAIL="3")
    assert done.returncode == 1
    assert "6 jobs: 5 done, 0 already done, 1 failed." in done.stdout
    assert "seed of trouble" in done.stderr
    assert len({run[5] for run in command.computed()}) == 2
    log = (command.run_dir("zero_shot", 3) / "console.log").read_text()
    assert "seed of trouble" in log
    assert "seed1" not in log, "what earlier runs of the process printed is not in it"
    note = json.loads((command.run_dir("zero_shot", 3) / "failed.json").read_text())
    assert note["error"] == "RuntimeError: seed of trouble"
    stored = Result.read(command.run_dir("zero_shot", 6))
    assert stored.provenance["command"].endswith("data=shapes seed=6")


def test_a_killed_worker_loses_its_own_run_alone(command):
    killed = command("-m", *CPU, "seed=1,2,3,4,5", "launch.jobs=2", STUB_SECONDS="0.5", STUB_KILL="3")
    assert killed.returncode == 1
    assert "5 jobs: 4 done, 0 already done, 1 failed." in killed.stdout
    assert "SIGKILL" in json.loads((command.run_dir("zero_shot", 3) / "failed.json").read_text())["error"]
    assert seeds(command) == [1, 2, 4, 5]
    assert len({run[5] for run in command.computed()}) <= 3


def test_sigterm_ends_the_workers(command):
    sweep = command.start("-m", *CPU, "seed=1,2,3", "launch.jobs=2", STUB_SECONDS="60")
    for seed in (1, 2):
        wait_for(command, f"begin zero_shot {seed}")
    sweep.terminate()
    sweep.communicate(timeout=30)
    assert sweep.returncode == 128 + signal.SIGTERM
    assert not list(command.cwd.rglob(".lock")), "they have ended and freed their locks"


def test_more_jobs_than_devices_share_them(command):
    line = ("-m", "trainer=default", *CPU[1:], "launch.jobs=4", "launch.devices=[0,1]", "seed=1,2,3,4")
    assert command(*line, STUB_SECONDS="8").returncode == 0
    runs = command.computed()
    assert sorted(run[2] for run in runs) == ["0", "0", "1", "1"]
    assert max(float(run[3]) for run in runs) < min(float(run[4]) for run in runs), "all at the same time"


def test_more_devices_than_there_are_is_one_failed_job(command):
    done = command("-m", "trainer=default", *CPU[1:], "launch.devices=[0,1]", "trainer.devices=3")
    assert done.returncode == 1
    assert "asks for more devices than there are. launch.devices has 2: 0, 1." in done.stderr
