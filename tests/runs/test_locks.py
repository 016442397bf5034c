"""Locks between processes, what a dead holder leaves behind, and devices that no two runs share."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from mmadapt.errors import UserError
from mmadapt.runs.locks import BusyError, holder, run_lock, try_lock
from mmadapt.runs.process_count import ALL, secondary_process, several_processes, wanted
from mmadapt.sweeps.devices import DevicePool
from mmadapt.sweeps.options import LaunchOptions

HOLD = """
import sys, time
from pathlib import Path
from mmadapt.runs.locks import try_lock
lock = try_lock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def elsewhere(tmp_path):
    """A process that holds the lock of ``tmp_path``."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / ".lock"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_lock_keeps_others_out_and_says_who_holds_it(elsewhere, tmp_path):
    assert try_lock(tmp_path / ".lock") is None
    assert holder(tmp_path / ".lock").pid == elsewhere.pid
    with (
        pytest.raises(BusyError, match=f"is being computed by pid {elsewhere.pid} on .* since 20"),
        run_lock(tmp_path, wait=False),
    ):
        pass


def test_a_killed_holder_frees_it_at_once_and_is_named(elsewhere, tmp_path, caplog):
    elsewhere.kill()
    elsewhere.wait()
    assert holder(tmp_path / ".lock") is None
    with run_lock(tmp_path, wait=False):
        assert holder(tmp_path / ".lock").pid == os.getpid()
    assert f"was left unfinished by pid {elsewhere.pid}" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_waiting_goes_on_until_the_holder_ends(elsewhere, tmp_path, capsys):
    threading.Timer(1, elsewhere.kill).start()
    with run_lock(tmp_path, wait=True):
        pass
    assert "Waiting for it" in capsys.readouterr().err


def test_a_lock_on_a_file_that_was_removed_meanwhile_is_none(tmp_path):
    """Two threads take and remove one lock in turn: at no time do both hold it."""
    inside, worst = [0], [0]

    def work():
        for _ in range(200):
            while (lock := try_lock(tmp_path / "a" / ".lock")) is None:
                pass
            inside[0] += 1
            worst[0] = max(worst[0], inside[0])
            time.sleep(0)
            inside[0] -= 1
            lock.release(remove=True)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert worst == [1]


def test_a_child_that_inherits_a_lock_holds_it_until_it_ends(tmp_path):
    lock = try_lock(tmp_path / "gpu0.lock")
    child = subprocess.Popen(["sleep", "60"], pass_fds=(lock.handle,))
    os.close(lock.handle)  # as at the end of the process that took it
    assert try_lock(tmp_path / "gpu0.lock") is None
    child.kill()
    child.wait()
    assert try_lock(tmp_path / "gpu0.lock") is not None


@pytest.mark.parametrize(("devices", "asked", "several"), [
    (1, 1, False), (2, 2, True), ("2", 2, True), ([1], (1,), False), ([0, 1], (0, 1), True), ("0,1", (0, 1), True),
    ("0,", (0,), False), ("auto", ALL, True), (-1, ALL, True), ("-1", ALL, True),
])  # fmt: skip
def test_what_a_trainer_asks_for(devices, asked, several, monkeypatch):
    monkeypatch.setenv("MMADAPT_DEVICES", "0,1")
    assert wanted({"devices": devices}) == asked
    assert several_processes({"devices": devices}) == several


def test_strategies_and_nodes_ask_for_processes_and_the_cpu_does_not(monkeypatch):
    monkeypatch.setenv("MMADAPT_DEVICES", "0,1")
    assert several_processes({"devices": 1, "strategy": "ddp"})
    assert several_processes({"devices": 1, "num_nodes": 2})
    assert not several_processes({"devices": "auto", "accelerator": "cpu"})
    assert not several_processes({"devices": 1, "strategy": "auto", "num_nodes": 1})


def test_only_ranks_of_a_run_of_several_processes_are_secondary(monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert secondary_process({"devices": 2})
    assert not secondary_process({"devices": 1}), "four sweeps under srun are no ranks of one run"


@pytest.fixture
def pool(tmp_path, monkeypatch):
    monkeypatch.setenv("MMADAPT_LOCKS", str(tmp_path))
    return lambda *names: DevicePool(LaunchOptions(devices=names))


def test_devices_are_taken_all_or_none_and_given_back(pool):
    first, second = pool("4", "5", "6"), pool("4", "5", "6")
    one = first.take({"devices": 2})
    assert one.environment == {"CUDA_VISIBLE_DEVICES": "4,5"}
    assert second.take({"devices": 2}) is None
    other = second.take({"devices": 1})
    assert other.environment == {"CUDA_VISIBLE_DEVICES": "6"}, "a failed attempt left none taken"
    one.release()
    assert second.take({"devices": 2}).names == ("4", "5")
    assert set(first.holders()) == {"4", "5", "6"}


def test_more_jobs_than_devices_share_them_evenly_and_never_with_another_sweep(pool, tmp_path):
    sweep, other = DevicePool(LaunchOptions(jobs=3, devices=("4", "5"))), pool("4", "5")
    leases = [sweep.take({"devices": 1}) for _ in range(3)]
    assert [lease.names for lease in leases] == [("4",), ("5",), ("4",)]
    assert sweep.take({"devices": 2}) is None, "a run on several devices has them for itself"
    leases[0].release()
    leases[0].release()
    assert other.take({"devices": 1}) is None, "one of two has ended"
    leases[2].release()
    assert other.take({"devices": 1}).names == ("4",)


def test_named_devices_count_among_all(pool):
    lease = pool("4", "5").take({"devices": [1]})
    assert lease.names == ("5",)
    assert lease.environment == {"CUDA_VISIBLE_DEVICES": "4,5"}
    assert pool("4", "5").take({"devices": -1}) is None


@pytest.mark.parametrize("devices", [3, [2]])
def test_more_than_there_are_is_refused(devices, pool):
    with pytest.raises(UserError, match=r"launch.devices has 2: 4, 5"):
        pool("4", "5").take({"devices": devices})


def test_the_cpu_needs_no_device_and_null_leaves_the_choice(pool, monkeypatch):
    assert pool("4").take({"accelerator": "cpu", "devices": 4}).environment == {}
    monkeypatch.setenv("MMADAPT_DEVICES", "0,1")
    assert DevicePool(LaunchOptions(devices=None)).take({"devices": 4}).environment == {}
    assert DevicePool(LaunchOptions()).names == ("0", "1")
