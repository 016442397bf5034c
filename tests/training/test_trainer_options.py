"""Every parameter of Lightning's trainer has its effect, makes a debug run, or is refused; devices there are not."""

from __future__ import annotations

import inspect

import lightning
import pytest
import torch
from hydra import compose, initialize_config_dir
from tests.support.launching import Command

from mmadapt.config.hydra_versions import BASE
from mmadapt.config.identity import differences
from mmadapt.config.paths import CONF_DIR
from mmadapt.config.schema import register_resolvers, resolve
from mmadapt.config.trainer_options import OPTIONS, check, is_debug
from mmadapt.errors import UserError
from mmadapt.runs.job import execute
from mmadapt.runs.process_count import check_devices
from mmadapt.training.feature_data import EvalLoader
from mmadapt.training.trainer import build_trainer

register_resolvers()
PARAMETERS = inspect.signature(lightning.Trainer.__init__).parameters
DECIDED = {
    decision: [key for key, option in OPTIONS.items() if option.decision == decision]
    for decision in ("effect", "debug", "refused", "ours")
}
REFUSED = {
    "barebones": True, "check_val_every_n_epoch": 2, "enable_autolog_hparams": False, "limit_predict_batches": 1,
    "max_steps": 3, "max_time": "00:01:00:00", "min_steps": 3, "model_registry": "mine", "plugins": [{}],
    "reload_dataloaders_every_n_epochs": 1, "sync_batchnorm": True, "val_check_interval": 0.5,
}  # fmt: skip
DEBUG = {
    "fast_dev_run": (True, 3), "limit_test_batches": (1, 0.5), "limit_train_batches": (1, 0.1),
    "limit_val_batches": (1, 0), "overfit_batches": (1, 0.1), "profiler": ("simple",),
}  # fmt: skip
CPU = ("trainer=cpu", "method=zero_shot", "clip=vit_b16", "data=shapes")
CHOICES = {"clip": "vit_b16", "data": "folder", "protocol": "few_shot", "trainer": "cpu", "logger": "csv"}


def composed(*overrides):
    with initialize_config_dir(str(CONF_DIR), **BASE):
        return compose("config", overrides=list(overrides))


def node(*overrides):
    return resolve(composed("paths.features=/nowhere", *overrides))["trainer"]


def test_the_list_is_the_signature_of_the_installed_lightning():
    assert sorted(OPTIONS) == sorted(PARAMETERS.keys() - {"self"})
    assert all(option.why for option in OPTIONS.values())
    assert set(REFUSED) == set(DECIDED["refused"])
    assert set(DEBUG) == set(DECIDED["debug"])


@pytest.mark.parametrize("key", [key for key in OPTIONS if OPTIONS[key].decision != "ours"])
def test_lightnings_own_default_asks_for_nothing(key):
    default = PARAMETERS[key].default
    if key != "max_epochs":  # None: a thousand
        check({key: default})
    assert is_debug({key: default}) == ()


def test_the_defaults_here_are_an_ordinary_run():
    plain = node()
    assert {"precision", "gradient_clip_val", "accumulate_grad_batches", "deterministic", "benchmark", "num_nodes",
            "strategy"} <= plain.keys()  # fmt: skip
    assert is_debug(plain) == ()


@pytest.mark.parametrize("key", DECIDED["ours"])
def test_what_mmadapt_sets_is_refused_at_any_value(key):
    with pytest.raises(UserError, match=rf"trainer\.{key} is set by mmadapt itself; remove it"):
        check({key: None})


@pytest.mark.parametrize(("key", "value"), REFUSED.items())
def test_what_has_no_place_is_refused_with_the_reason(key, value):
    with pytest.raises(UserError) as caught:
        check({key: value})
    assert str(caught.value) == f"trainer.{key} {OPTIONS[key].why}"


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in DEBUG.items() for value in values]
)
def test_what_shortens_makes_a_debug_run(key, value):
    check({key: value})
    assert is_debug({"max_epochs": 3, key: value}) == (key,)


@pytest.mark.parametrize(("override", "message"), [
    ("trainer.max_epochs=-1", "trainer.max_epochs=-1 must be a whole number of at least 0. Use method.epochs."),
    ("trainer.max_epochs=null", "trainer.max_epochs=None must be a whole number"),
    ("+trainer.min_epochs=1000", "trainer.min_epochs=1000 must be a whole number up to max_epochs="),
    ("trainer.num_nodes=0", "trainer.num_nodes=0 must be a whole number of at least 1"),
    ("trainer.gradient_clip_algorithm=value", "does nothing alone: set trainer.gradient_clip_val too"),
    ("+trainer.limit_test_batches=0", "leaves nothing to score"),
    ("trainer.precision=16-true", "clip.precision=fp16 or trainer.precision=16-mixed"),
    ("trainer.precision=64-true", "would convert the frozen CLIP"),
    ("+trainer.callbacks=[]", "use callbacks="),
])  # fmt: skip
def test_values_without_sense_are_refused_when_the_configuration_is_read(override, message):
    with pytest.raises(UserError) as caught:
        node(override)
    assert message in str(caught.value)


@pytest.mark.parametrize(("override", "message"), [
    ("trainer.strategy=dpp", "Lightning refuses these values of trainer: You selected an invalid strategy"),
    ("+trainer.fast_dev_run=-1", "Lightning refuses these values of trainer: fast_dev_run=-1"),
    ("trainer.precision=16-mixed", "trainer.precision=16-mixed needs a GPU. Use bf16-mixed or 32-true here."),
])  # fmt: skip
def test_what_lightning_refuses_is_one_message(override, message, tmp_path):
    with pytest.raises(UserError) as caught:
        build_trainer({"trainer": node("trainer=cpu", override)}, tmp_path)
    assert str(caught.value).startswith(message)


def test_kernels_of_one_run_are_not_those_of_the_next(tmp_path):
    chosen = node("trainer=cpu", "trainer.deterministic=true", "trainer.benchmark=true")
    build_trainer({"clip": {}, "trainer": chosen}, tmp_path)
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark
    build_trainer({"clip": {}, "trainer": node("trainer=cpu")}, tmp_path)
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.benchmark


@pytest.mark.parametrize(("option", "keys"), [
    ("fdr", ("fast_dev_run",)), ("limit", ("limit_train_batches", "limit_val_batches", "limit_test_batches")),
    ("overfit", ("overfit_batches",)), ("profiler", ("profiler",)),
])  # fmt: skip
def test_debug_sets_keys_of_the_trainer_and_nothing_else(option, keys):
    plain, debug = (
        resolve(composed("paths.features=/nowhere", *more)) for more in ((), (f"debug={option}",))
    )
    assert is_debug(debug["trainer"]) == keys
    assert [line.split(":")[0] for line in differences(plain, debug)] == sorted(
        f"trainer.{key}" for key in keys
    )
    assert "debug" not in plain.keys() | debug.keys()


@pytest.fixture(scope="module")
def images(tmp_path_factory, write_tree):
    counts = {f"{split}/{name}": n for split, n in (("train", 4), ("val", 2), ("test", 3)) for name in "abc"}
    return write_tree(tmp_path_factory.mktemp("images") / "toys", counts)


@pytest.fixture
def run(tmp_path, images, small_clip):
    def execute_with(*overrides, method="clip_adapter"):
        base = [f"method={method}", "data=folder", f"data.root={images}", "trainer=cpu", "shots=4",
                "clip.arch=small-clip", "clip.pretrained=null", f"paths.features={tmp_path / 'features'}"]  # fmt: skip
        if method != "tip_adapter":
            base.append("method.epochs=2")
        cfg = composed(*base, *overrides)
        return execute(cfg, {**CHOICES, "method": method}, tmp_path / "few_shot" / "run", list(overrides))

    return execute_with


def contents(folder):
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("option", ["debug=fdr", "debug=limit", "debug=overfit", "debug=profiler"])
@pytest.mark.parametrize("method", ["clip_adapter", "tip_adapter"])
def test_a_debug_run_scores_and_writes_nothing(option, method, run, tmp_path, monkeypatch):
    monkeypatch.setattr(EvalLoader.__init__, "__defaults__", (2, (0, 1)))
    outcome = run(option, "save_predictions=true", "checkpoint_seconds=0", method=method)
    assert outcome.status == "debug"
    batches = {"debug=fdr": 1, "debug=limit": 2}.get(option)
    assert outcome.result.scores["test"].total == (9 if batches is None else 2 * batches)
    assert not (tmp_path / "few_shot").exists()


def test_a_debug_run_leaves_a_finished_result_as_it_is_and_is_not_skipped_for_it(run):
    first = run()
    (first.run_dir / "last.ckpt").write_text("of an interrupted run")
    before = contents(first.run_dir)
    assert run("debug=fdr").status == "debug"
    with pytest.raises(UserError, match=r"not finite|became"):
        run("debug=limit", "method.optimizer.lr=1e30")
    assert contents(first.run_dir) == before
    assert run().status == "skipped"


def test_too_small_a_part_is_refused_in_a_line(run):
    with pytest.raises(UserError, match=r"Lightning refuses this run: You requested to check 0\.01"):
        run("+trainer.limit_test_batches=0.01")


@pytest.fixture
def command(tmp_path):
    return Command(tmp_path)


@pytest.mark.parametrize(
    "options", [(), ("launch.jobs=2",), ("hydra/launcher=basic",), ("hydra/launcher=joblib_cpu",)]
)
def test_a_sweep_counts_its_debug_runs_and_leaves_nothing(options, command):
    done = command("-m", *CPU, "seed=1,2", "debug=fdr", *options)
    assert done.returncode == 0, done.stderr
    assert "2 jobs: 0 done, 0 already done, 0 failed, 2 debug." in done.stdout
    assert "top-1 50.00 %" in done.stdout
    assert "a debug run, which writes nothing (because of trainer.fast_dev_run)" in done.stdout
    assert not list((command.cwd / "multirun").rglob("*"))


def test_a_debug_run_that_fails_in_a_child_shows_why_and_leaves_nothing(command):
    done = command("-m", *CPU, "seed=1,2", "debug=fdr", "launch.isolate=true", STUB_FAIL="2")
    assert done.returncode == 1
    assert "2 jobs: 0 done, 0 already done, 1 failed, 1 debug." in done.stdout
    assert "RuntimeError: seed of trouble" in done.stdout, "its output"
    assert not list((command.cwd / "multirun").rglob("*"))


def test_a_single_debug_run_prints_its_scores_and_a_dry_run_says_what_it_is(command):
    assert command(*CPU).returncode == 0
    before = contents(command.cwd / "multirun")
    note = "a debug run, which writes nothing (because of trainer.limit_test_batches)"
    done = command(*CPU, "+trainer.limit_test_batches=1")
    assert done.returncode == 0, done.stderr
    assert "50.00" in done.stdout
    assert f"This was {note}." in done.stdout
    assert "Stored in" not in done.stdout
    planned = command(*CPU, "+trainer.limit_test_batches=1", "launch.dry_run=true")
    assert f"seed1: {note}" in planned.stdout
    assert contents(command.cwd / "multirun") == before


@pytest.mark.parametrize("engine", [("hydra/launcher=mmadapt",), ("hydra/launcher=basic",)])
def test_a_search_over_debug_runs_is_refused_before_one_is_started(engine, command):
    search = ("-m", "trainer=cpu", "clip=vit_b16", "data=shapes", "sweep=search", "hydra.sweeper.n_trials=2")
    done = command(*search, "debug=limit", *engine, STUB_VAL="ratio")
    assert done.returncode == 1
    assert "a search has nothing to choose by" in done.stderr
    assert command.computed() == []


@pytest.mark.parametrize(("override", "message"), [
    ("trainer.limit_test_batches=1", "is not among the defaults of the trainer: add it as +trainer.limit_test"),
    ("trainer.profiller=simple", "trainer.profiller is not a parameter of Trainer (did you mean 'profiler'?)"),
])  # fmt: skip
def test_a_parameter_that_is_not_named_yet_is_explained(override, message, command):
    assert message in command(*CPU, override).stderr


@pytest.mark.parametrize(("trainer", "message"), [
    ({"accelerator": "cpu", "devices": 99}, "devices=99 asks for 99 processes, and this machine has 8 cores. Use"),
    ({"accelerator": "auto", "devices": "99"}, "this machine has 8 cores. No GPU is visible. Use trainer.devices=8"),
    ({"accelerator": "cpu", "devices": -1}, "names GPUs, but trainer.accelerator=cpu. Use a number of processes."),
    ({"accelerator": "cpu", "devices": [0, 1]}, "names GPUs, but trainer.accelerator=cpu"),
])  # fmt: skip
def test_more_processes_than_cores_are_refused(trainer, message, monkeypatch):
    monkeypatch.setenv("MMADAPT_DEVICES", "")
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})
    with pytest.raises(UserError) as caught:
        check_devices(trainer)
    assert message in str(caught.value)
    check_devices({"accelerator": "cpu", "devices": 8})


@pytest.mark.parametrize(("devices", "message"), [
    (3, "trainer.devices=3 asks for more devices than there are. This machine has 2: 4, 5."),
    ("3", "This machine has 2: 4, 5."),
    ([0, 2], "trainer.devices=[0, 2] names a device that is not there. This machine has 2: 4, 5."),
])  # fmt: skip
def test_more_gpus_than_there_are_are_refused(devices, message, monkeypatch):
    monkeypatch.setenv("MMADAPT_DEVICES", "4,5")
    with pytest.raises(UserError) as caught:
        check_devices({"accelerator": "gpu", "devices": devices})
    assert message in str(caught.value)
    for there in (1, 2, "2", -1, "auto", [0, 1], "1,"):
        check_devices({"accelerator": "auto", "devices": there})


@pytest.mark.parametrize("devices", [0, -2, 1.5, True, None, "two", "", [], [0, 0], [-1]])
def test_devices_without_sense_are_refused(devices):
    with pytest.raises(UserError, match="must be a number of at least 1, auto or -1 for all, or a list"):
        check_devices({"accelerator": "cpu", "devices": devices})


@pytest.mark.parametrize("more", [(), ("num_nodes=2",), ("strategy=ddp",)])
def test_devices_that_are_not_there_start_no_process(more, command):
    lines = [f"trainer.{each}" for each in more]
    done = command(*CPU, "trainer.devices=9999", *lines)
    assert done.returncode == 1
    assert "mmadapt: trainer.devices=9999 asks for 9999 processes" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(command.cwd.rglob("*.json"))


def test_in_a_sweep_they_are_one_job_that_failed(command):
    done = command("-m", *CPU, "trainer.devices=1,9999", "seed=1,2")
    assert done.returncode == 1
    assert "4 jobs: 2 done, 0 already done, 2 failed." in done.stdout
    assert "asks for 9999 processes" in done.stderr
    planned = command("-m", *CPU, "trainer.devices=9999", "seed=1,3", "launch.dry_run=true")
    assert "2 jobs: 1 done, 1 refused." in planned.stdout
    again = command("-m", *CPU, "trainer.devices=9999", "seed=1", "hydra/launcher=basic")
    assert again.returncode == 0, "what is done is not done again, whatever its devices"
