"""Results that the code of an earlier layout made: still finished, still loaded, still the numbers of today's code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file
from tests.support import FILES

from mmadapt.clip import ClipBackbone
from mmadapt.collect.__main__ import main
from mmadapt.config.build import instantiate
from mmadapt.config.hydra_versions import BASE
from mmadapt.config.paths import CONF_DIR
from mmadapt.config.schema import register_resolvers
from mmadapt.results import Result
from mmadapt.runs.job import execute
from mmadapt.training import epoch_fit

register_resolvers()
STORED = FILES / "stored"
RUNS = sorted(path.parent.relative_to(STORED) for path in STORED.rglob("result.json"))
RECOMPUTED = [run for run in RUNS if run.parts[1] != "few_shot" or run.parts[4] not in ("cocoop", "comma")]


def run_again(run: Path, folder: Path, features: Path):
    """Run the command of a stored run in a folder."""
    made = json.loads((STORED / run / "result.json").read_text())["provenance"]
    overrides = [*made["overrides"], f"paths.features={features}"]
    with initialize_config_dir(str(CONF_DIR), **BASE):
        cfg = compose("config", overrides=overrides)
    return execute(cfg, made["choices"], folder, overrides)


@pytest.mark.parametrize("run", RUNS, ids=str)
def test_it_is_finished(run, tmp_path):
    shutil.copytree(STORED / run, tmp_path / "run")
    assert run_again(run, tmp_path / "run", tmp_path).status == "skipped"


@pytest.mark.parametrize("protocol", ["few_shot", "base_to_new", "domain_generalization"])
def test_its_table_is_the_same(protocol, capsys):
    assert main([str(STORED / "before" / protocol)]) == 0
    assert capsys.readouterr().out == (STORED / f"{protocol}.md").read_text()


@pytest.mark.parametrize("run", RUNS, ids=str)
def test_its_adapter_is_loaded(run):
    config = json.loads((STORED / run / "result.json").read_text())["config"]
    method = instantiate(config["method"], "method", clip=tiny_clip(), classes=classes_of(config))
    method.load_state_dict(load_file(STORED / run / "adapter.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS, ids=str)
def test_its_adapter_has_its_numbers(run, tmp_path, features, monkeypatch):
    """Processors round features differently: an image may fall to the other side, the likelihood hardly moves."""
    train = epoch_fit.fit

    def loaded(trainer, method, resident, *, textbook):
        trainer.fit_loop.max_epochs = 1  # for the phases of a run; its weights are replaced
        train(trainer, method, resident, textbook=textbook)
        method.load_state_dict(load_file(STORED / run / "adapter.safetensors"))

    monkeypatch.setattr(epoch_fit, "fit", loaded)
    before, now = Result.read(STORED / run), run_again(run, tmp_path / "run", features).result
    assert now.scores.keys() == before.scores.keys()
    assert now.data == before.data
    for name, score in before.scores.items():
        assert abs(now.scores[name].correct - score.correct) <= 2, name
        assert now.scores[name].nll == pytest.approx(score.nll, rel=1e-3), name


@pytest.mark.slow
@pytest.mark.parametrize("run", RECOMPUTED, ids=str)
def test_training_it_again_leads_there(run, tmp_path, features):
    """By hits alone: over hundreds of float32 steps the likelihood of an overfitted adapter leaves by a per cent."""
    before, now = Result.read(STORED / run), run_again(run, tmp_path / "run", features).result
    for name, score in before.scores.items():
        assert abs(now.scores[name].correct - score.correct) <= 3, name


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


def tiny_clip() -> ClipBackbone:
    if not hasattr(tiny_clip, "made"):
        tiny_clip.made = ClipBackbone("mmadapt-tiny", "embedded")
    return tiny_clip.made


def classes_of(config):
    subset = "base" if config["protocol"]["name"] == "base_to_new" else "all"
    data = instantiate({**config["data"], "subset": subset}, "data")
    data.setup("fit")
    return data.classes
