"""Other engines for real, around a stub of the experiment: joblib, submitit, Ray, Optuna, and their absence."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir
from tests.support import ROOT
from tests.support.launching import Command

from mmadapt.config.hydra_versions import BASE
from mmadapt.config.paths import CONF_DIR
from mmadapt.config.schema import register_resolvers
from mmadapt.results import Result

pytestmark = pytest.mark.slow

register_resolvers()
CPU = ("trainer=cpu", "method=zero_shot", "clip=vit_b16", "data=shapes")
JOBLIB, SLURM, RAY = ("joblib_cpu", "hydra.launcher.n_jobs=2"), ("slurm_local",), ("ray_cluster",)
WITHOUT_RAY = pytest.mark.skipif(
    importlib.util.find_spec("hydra_plugins.hydra_ray_launcher") is None,
    reason="Ray weighs 200 MB and is no part of dev: pip install 'mmadapt[ray]'",
)
ENGINES = [
    pytest.param(JOBLIB, id="joblib"),
    pytest.param(SLURM, id="submitit"),
    pytest.param(RAY, id="ray", marks=WITHOUT_RAY),
]
SEARCH = ("-m", "trainer=cpu", "clip=vit_b16", "data=shapes", "sweep=search", "hydra.sweeper.n_trials=4")


@pytest.fixture
def command(tmp_path):
    return Command(tmp_path)


def engine(words):
    return (f"hydra/launcher={words[0]}", *words[1:])


def seeds(command):
    return sorted(int(run[1]) for run in command.computed())


@pytest.mark.parametrize("words", ENGINES)
def test_a_grid_on_another_engine_with_a_failure_and_its_repetition(words, command):
    line = ("-m", *CPU, "seed=1,2,3", *engine(words))
    first = command(*line, STUB_FAIL="2")
    assert first.returncode == 1
    assert "3 jobs: 2 done, 0 already done, 1 failed." in first.stdout, first.stderr
    assert seeds(command) == [1, 3]
    sweep = command("-m", *CPU, "seed=1,2,3", "launch.dry_run=true", *engine(words))
    assert "3 jobs: 2 done, 1 failed before." in sweep.stdout, "and no engine was started"
    assert command(*line).returncode == 0
    assert seeds(command) == [1, 2, 3], "what was done is not done again"
    assert not list(command.cwd.rglob(".lock"))
    for seed in (1, 2, 3):
        result = Result.read(command.run_dir("zero_shot", seed))
        assert result.provenance["command"].endswith(f"data=shapes seed={seed}")


@pytest.mark.parametrize("words", [*ENGINES, pytest.param(("basic",), id="basic")])
def test_jobs_of_several_processes_run_in_children_of_the_engine(words, command):
    done = command("-m", *CPU, "seed=1,2", "trainer.devices=2", *engine(words))
    assert done.returncode == 0, done.stderr
    assert seeds(command) == [1, 2]
    assert len({run[5] for run in command.computed()}) == 2


@pytest.mark.parametrize("words", [
    *(pytest.param((*engine.values[0], "launch.jobs=2"), id=engine.id, marks=engine.marks) for engine in ENGINES),
    pytest.param(("mmadapt", "launch.jobs=2"), id="mmadapt"), pytest.param(("basic",), id="basic"),
])  # fmt: skip
def test_a_search_goes_up_by_val_and_repeats_for_free(words, command):
    """The stub's accuracy on val is highest at a ratio of 0.5, its accuracy on test is always the same."""
    line = (*SEARCH, *engine(words))
    done = command(*line, STUB_VAL="ratio")
    assert done.returncode == 0, done.stderr
    assert len(command.computed()) == 4
    trials = sorted(
        (command.cwd / "multirun/search").glob("lr*_ratio*/few_shot/vit_b16/shapes/clip_adapter/16shot")
    )
    assert len(trials) == 4
    results = [Result.read(folder / "seed1") for folder in trials]
    best = max(results, key=lambda result: result.selection["val_top1"])
    shown = re.search(r"Best top-1 on val: (\S+) % with (.*)", done.stdout)
    assert shown[1] == f"{100 * best.selection['val_top1']:.2f}"
    assert f"method.ratio={best.config['method']['ratio']}" in shown[2]
    assert {result.key.tag for result in results} == {f"search/{folder.parts[-6]}" for folder in trials}
    again = command(*line, STUB_VAL="ratio")
    assert again.returncode == 0, again.stderr
    assert len(command.computed()) == 4
    assert shown[0] in again.stdout


@pytest.mark.parametrize(("words", "sweeper"), [
    (("mmadapt",), ()), (JOBLIB, ()), (("basic",), ("hydra/sweeper=optuna", "tag=x")),
    (("mmadapt",), ("hydra/sweeper=optuna", "tag=x")),
])  # fmt: skip
def test_a_search_without_an_accuracy_on_val_says_so(sweeper, words, command):
    done = command(*SEARCH, *sweeper, *engine(words))
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "mmadapt: clip_adapter ran without an accuracy on val, which a search optimises" in done.stderr, (
        said
    )
    assert "NoObjectiveError: " not in done.stderr, said  # the last line of its traceback
    if "joblib" not in words[0]:  # a worker still starting while the search ends may have one of its own
        assert "Traceback" not in done.stderr, said


def test_a_trial_that_fails_ends_the_search(command):
    done = command(*SEARCH, STUB_FAIL="1")
    assert done.returncode == 1
    assert "seed of trouble" in done.stderr
    assert "float-castable" not in done.stderr.splitlines()[-1]
    assert len(list(command.cwd.rglob("failed.json"))) == 1


def test_a_search_can_be_asked_what_it_would_do_and_needs_something_to_choose(command):
    done, raw, bare = command.side_by_side(
        (*SEARCH, "launch.dry_run=true"),
        (*SEARCH, "hydra/sweeper=optuna", "launch.dry_run=true"),
        ("-m", *CPU, "hydra/sweeper=search"),
    )
    assert done.returncode == 0, done.stderr
    assert "A search of 4 trials over:\n  method.optimizer.lr=tag(log" in done.stdout
    assert raw.returncode == 1
    assert (
        "mmadapt: launch.dry_run cannot plan for OptunaSweeper; hydra/sweeper=search has a dry run."
        in raw.stderr
    )
    assert bare.returncode == 1
    assert "A search needs at least one interval" in bare.stderr
    assert command.files() == set()


@pytest.mark.parametrize(("choice", "extra"), [
    ("hydra/launcher=joblib_cpu", "joblib"), ("hydra/launcher=slurm", "slurm"), ("hydra/launcher=slurm_local", "slurm"),
    ("hydra/launcher=ray_cluster", "ray"), ("sweep=search", "hpo"), ("hydra/sweeper=optuna", "hpo"),
])  # fmt: skip
def test_a_missing_extra_is_named(choice, extra, tmp_path):
    """In a Python that finds no plugin of Hydra."""
    code = (
        "import sys, types; module = types.ModuleType('hydra_plugins'); module.__path__ = []\n"
        "sys.modules['hydra_plugins'] = module\n"
        f"sys.argv = ['mmadapt', '-m', 'method=zero_shot', {choice!r}]\nfrom mmadapt.app import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT / "src")},
    )
    assert done.returncode == 1
    assert f"comes with an extra that is not installed: pip install 'mmadapt[{extra}]'." in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_slurm_leaves_processes_to_lightning_and_devices_to_itself(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    with initialize_config_dir(str(CONF_DIR), **BASE):
        hydra = compose("config", ["hydra/launcher=slurm"], return_hydra_config=True).hydra
    assert hydra.launcher.tasks_per_node == 1
    assert hydra.job.env_set.SLURM_JOB_NAME == "interactive"
    assert hydra.job.env_set.MMADAPT_LOCKS.endswith("mmadapt-locks-77")


def test_the_grid_of_the_papers_and_what_is_typed_over_it(command):
    done, typed = command.side_by_side(
        ("-m", "sweep=eleven", "method=zero_shot", "launch.dry_run=true"),
        (
            "-m",
            "sweep=eleven",
            "method=zero_shot,tip_adapter",
            "data=dtd,food101",
            "shots=16",
            "launch.dry_run=true",
        ),
    )
    assert done.returncode == 0, done.stderr
    assert "165 jobs: 165 to do." in done.stdout
    order = [line.split("/")[2] for line in done.stdout.splitlines() if line.startswith("to do")]
    assert list(dict.fromkeys(order)) == [
        "imagenet", "caltech101", "oxford_pets", "stanford_cars", "oxford_flowers", "food101", "fgvc_aircraft",
        "sun397", "dtd", "eurosat", "ucf101",
    ]  # fmt: skip
    assert "12 jobs: 12 to do." in typed.stdout, typed.stderr
