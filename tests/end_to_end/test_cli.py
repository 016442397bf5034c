"""The command itself, in processes of its own: sweeps, messages, exit codes, the wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from tests.support import ROOT


def mmadapt(*arguments: str, cwd: Path, **environment: str):
    return subprocess.run(
        [sys.executable, "-m", "mmadapt", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "COLUMNS": "200", **environment},
    )


@pytest.fixture
def tree(tmp_path, write_tree):
    counts = {f"{split}/{name}": 2 for split in ("train", "val", "test") for name in "ab"}
    return write_tree(tmp_path / "toys", counts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sede=2"], "sede is not a parameter of the configuration (did you mean 'seed'?)"),
        (["method.ratoi=3"], "method.ratoi is not a parameter of ClipAdapter (did you mean 'ratio'?)"),
        (["method=clip_adaptr"], "method=clip_adaptr does not exist (did you mean 'clip_adapter'?)"),
        (["data=folder"], "data.root must be given"),
        (["tag=../up"], "tag='../up' must be a name"),
        (["shots=none"], "shots='none' must be a whole number"),
        (["experiment=[quick,coop_table]"], "experiment=[quick,coop_table]: a run follows one recipe"),
        (
            ["method=null"],
            "method=null chooses nothing: leave it out, or choose from: clip_adapter, cocoop",
        ),
        (
            ["-m", "experiment=null,quick"],
            "experiment=null,quick chooses nothing: leave it out, or choose from: clip_adapter_table",
        ),
    ],
)
def test_a_mistake_is_one_message_exit_code_one_and_no_folder(arguments, message, tmp_path):
    done = mmadapt(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_sweep_goes_on_after_a_failure_and_a_second_one_computes_nothing(tree, tmp_path):
    options = ["data=folder", f"data.root={tree}", "clip=tiny", f"paths.features={tmp_path}/features"]
    command = ["-m", *options, "method=zero_shot,tip_adapter", "shots=1,2"]
    bad_image = tree / "train" / "a" / "000.png"
    content = bad_image.read_bytes()
    bad_image.write_bytes(b"broken")
    first = mmadapt(*command, cwd=tmp_path)
    assert first.returncode == 1
    assert "000.png" in first.stderr
    assert "4 jobs: 2 done, 0 already done, 2 failed." in first.stdout
    results = sorted((tmp_path / "multirun" / "main").rglob("result.json"))
    assert len(results) == 2
    stamps = [path.stat().st_mtime_ns for path in results]
    bad_image.write_bytes(content)
    second = mmadapt(*command, cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert "4 jobs: 2 done, 2 already done, 0 failed." in second.stdout
    assert [path.stat().st_mtime_ns for path in results] == stamps
    assert not list((tmp_path / "multirun").rglob("failed.json"))
    table = subprocess.run(
        [sys.executable, "-m", "mmadapt.collect"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert table.returncode == 0, table.stderr
    assert "tip_adapter" in table.stdout


@pytest.mark.slow
def test_a_built_wheel_holds_the_configuration_and_works_elsewhere(tmp_path):
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)],
                   check=True, capture_output=True)  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    environment = tmp_path / "env"
    venv.create(environment, with_pip=True)
    site = next((environment / "lib").glob("python*/site-packages"))
    (site / "base.pth").write_text(next(p for p in sys.path if p.endswith("site-packages")) + "\n")
    subprocess.run([environment / "bin" / "pip", "install", "--no-deps", "--no-index", "--force-reinstall", str(wheel)],
                   check=True, capture_output=True)  # fmt: skip
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [environment / "bin" / "mmadapt", "--cfg", "job", "method=tip_adapter"],
        cwd=elsewhere,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert "mmadapt.methods.tip_adapter.TipAdapter" in done.stdout
    assert (site / "mmadapt" / "conf" / "config.yaml").is_file()
    assert (site / "mmadapt" / "assets" / "mmadapt-tiny.safetensors").is_file()
