"""The command and the environment of a child, and what is made of its end."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from mmadapt.config.hydra_versions import BASE
from mmadapt.config.paths import CONF_DIR
from mmadapt.config.schema import register_resolvers
from mmadapt.sweeps.child import Child, command
from mmadapt.sweeps.devices import Lease
from mmadapt.sweeps.sweeper import BasicSweeper
from mmadapt.sweeps.worker import REPORT, OwnProcess, environment

register_resolvers()
AWKWARD = (
    """+paths.prompt='a photo of a {}, a type of "pet".'""",
    r"""+paths.other="it\'s {a: 1}, [b] = \${c}" """.strip(),
    "+paths.words=[a b,c]",
    "+paths.table={x: 1, y: [2, 'q,r']}",
    "+paths.empty=''",
    "+paths.nothing=null",
)


def hydra_node(*overrides, config_name="config", sources=()):
    listed = [{"provider": "main", "path": str(CONF_DIR)}, *sources]
    return OmegaConf.create({
        "job": {"config_name": config_name},
        "overrides": {"hydra": list(overrides)},
        "runtime": {"config_sources": listed},
    })  # fmt: skip


def composed(overrides):
    with initialize_config_dir(str(CONF_DIR), **BASE):
        return compose("config", overrides=overrides, return_hydra_config=True)


def test_awkward_overrides_reach_the_child_as_they_were(tmp_path):
    """Through the sweeper's own rewriting, which is what a child gets to see."""
    (job,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(list(AWKWARD)), None)[0]
    folder = tmp_path / "it's, {a} = folder"
    line = command(job, hydra_node(), folder)
    there, here = composed(line[3:]), composed(list(AWKWARD))
    for key in ("prompt", "words", "table", "empty", "nothing"):
        assert there.paths[key] == here.paths[key], key
    assert OmegaConf.to_container(there.paths)["other"] == OmegaConf.to_container(here.paths)["other"]
    assert there.paths.prompt == 'a photo of a {}, a type of "pet".'
    assert there.hydra.run.dir == str(folder)


def test_what_makes_it_a_single_run_of_the_same_sources(tmp_path):
    node = hydra_node(
        "hydra.mode=MULTIRUN", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=x",
        "+hydra.sweeper.params={seed: 1}", "hydra.verbose=true", "hydra.searchpath=[pkg://x]",
        config_name="mine", sources=[{"provider": "command-line", "path": "/elsewhere"}],
    )  # fmt: skip
    line = command(
        ["seed=1", "launch.jobs=4", "+launch.isolate=true", "hydra.job.env_set.A=b"], node, tmp_path
    )
    assert line[:3] == [sys.executable, "-m", "mmadapt"]
    assert line[3:] == [
        "--config-name=mine", "--config-dir=/elsewhere", "seed=1", "hydra.job.env_set.A=b", "hydra.verbose=true",
        "hydra.searchpath=[pkg://x]", f"hydra.run.dir='{tmp_path}'", "hydra.mode=RUN",
    ]  # fmt: skip


def test_no_trace_of_another_run_is_inherited(monkeypatch):
    gone = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "PL_GLOBAL_SEED",
            "PL_SEED_WORKERS", "TORCHELASTIC_RUN_ID", "GROUP_RANK")  # fmt: skip
    for name in (*gone, "MMADAPT_DATA"):
        monkeypatch.setenv(name, "1")
    kept = environment({"CUDA_VISIBLE_DEVICES": "3"})
    assert not set(gone) & kept.keys()
    assert kept["MMADAPT_DATA"] == "1"
    assert kept["CUDA_VISIBLE_DEVICES"] == "3"


def child(code, run_dir):
    handle, report = tempfile.mkstemp()
    os.close(handle)
    line = [sys.executable, "-c", code]
    return Child(line, run_dir, OwnProcess(line, Lease(), Path(report)), Path(report))


def test_an_end_without_a_word_is_a_failure_with_its_output(tmp_path):
    outcome = child("print('loading'); raise SystemExit(3)", tmp_path / "run").wait()
    assert outcome.status == "failed"
    assert outcome.error.startswith("The process ended with exit code 3. (see ")
    assert (tmp_path / "run" / "console.log").read_text() == "loading\n"
    assert "loading" in json.loads((tmp_path / "run" / "failed.json").read_text())["traceback"]


def test_exit_code_zero_without_a_report_is_a_failure(tmp_path):
    assert child("", tmp_path).wait().status == "failed"


def test_a_refused_run_leaves_its_folder_alone(tmp_path):
    said = {"status": "failed", "error": "other configuration", "explained": True}
    code = f"import os; open(os.environ[{REPORT!r}], 'w').write({json.dumps(said)!r}); raise SystemExit(1)"
    outcome = child(code, tmp_path).wait()
    assert outcome.error == "other configuration"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("patience", [0.5])
def test_a_child_that_ignores_ctrl_c_is_ended_by_force(patience, tmp_path):
    code = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    process = child(code, tmp_path)
    time.sleep(1)
    start = time.monotonic()
    assert process.poll() is None
    assert process.stop(patience).status == "failed"
    assert time.monotonic() - start < 10


def test_composing_leaves_no_hydra_configuration_behind():
    HydraConfig.instance().cfg = None
    composed(["seed=3"])
    assert HydraConfig.instance().cfg is None
