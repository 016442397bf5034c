"""Configurations composed from kept groups equal those of Hydra, whatever the overrides."""

from contextlib import contextmanager

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from hydra.types import HydraContext, RunMode
from omegaconf import OmegaConf, open_dict

from mmadapt.config.hydra_versions import BASE
from mmadapt.config.paths import CONF_DIR
from mmadapt.config.schema import register_resolvers
from mmadapt.sweeps.composer import Composer
from mmadapt.sweeps.sweeper import register_plugins

GIVEN = ["clip=tiny", "trainer=cpu", "hydra.job.name=sweep", "+extra=1"]
RECIPE = ["experiment=tip_adapter_table", "seed=4"]
JOBS = [
    ["method=tip_adapter", "shots=4", "seed=2"],
    ["method=tip_adapter", "seed=3", "shots=8"],
    ["method=clip_adapter", "data=shapes_count", "shots=16", "method.epochs=3", "tag=a/b"],
    ["seed=1", "method=coop", "protocol=base_to_new", "method.n_ctx=4", "method.optimizer.lr=1e-3"],
    ["protocol=cross_dataset", "protocol.targets=[shapes_night, shapes_count]", "shots=1"],
    ["data=eurosat", "method=xmadapter", "seed=2"],
    ["data=eurosat", "method=xmadapter", "method.search_scale=[1,2]", "method.epochs=3"],
    ["logger=[csv,wandb]", "shots=2"],
    ["+trainer.fast_dev_run=true", "seed=4"],
    ["~logger", "seed=5"],
    ["++method.more=7", "method.more=8"],
    ["clip.arch='ViT-B-32'", "clip.pretrained=null", "paths.results='/a, b=c'"],
]


@contextmanager
def sweep_of(given):
    register_resolvers()
    register_plugins()
    with initialize_config_dir(str(CONF_DIR), **BASE):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("config", given, run_mode=RunMode.MULTIRUN)
        yield loader, master, Composer(HydraContext(config_loader=loader, callbacks=None), master)


@pytest.fixture
def sweep():
    with sweep_of(GIVEN) as ready:
        yield ready


def plain(config):
    return OmegaConf.to_container(config, resolve=False)


def assert_composed_alike(sweep, lines):
    loader, master, compose = sweep
    for number, line in enumerate([*lines, *reversed(lines)]):
        expected = loader.load_sweep_config(master, line)
        with open_dict(expected):
            expected.hydra.job.update(id=str(number), num=number)
        config = compose(line, number)
        assert plain(config) == plain(expected), line
        assert OmegaConf.is_struct(config)


def test_every_job_is_what_hydra_composes(sweep):
    assert_composed_alike(sweep, [[*GIVEN[:2], *job] for job in JOBS])


def test_a_recipe_with_values_for_one_cell_is_what_hydra_composes():
    with sweep_of(RECIPE) as ready:
        jobs = [["data=imagenet", "method=tip_adapter_f"], ["data=dtd", "method=tip_adapter_f"], ["shots=2"]]
        assert_composed_alike(ready, [[*RECIPE, *job] for job in jobs])


def test_groups_are_composed_once(sweep, monkeypatch):
    loader, _, compose = sweep
    calls = []
    whole = type(loader).load_sweep_config
    monkeypatch.setattr(type(loader), "load_sweep_config", lambda *a: calls.append(a) or whole(*a))
    for seed in range(5):
        for method in ("coop", "maple"):
            config = compose([f"method={method}", f"seed={seed}"], seed)
            assert config.seed == seed
            assert config.hydra.runtime.choices.method == method
    assert len(calls) == 2


def test_a_job_does_not_change_another(sweep):
    _, _, compose = sweep
    one = compose(["method=coop", "seed=1"], 0)
    one.method.epochs = 1000
    two = compose(["method=coop", "seed=2"], 1)
    assert two.method.epochs != 1000
    assert list(two.hydra.overrides.task) == ["method=coop", "seed=2"]


@pytest.mark.parametrize("line", [["sede=1"], ["method.lerning_rate=1"], ["shots.more=1"]])
def test_an_error_is_hydras(sweep, line):
    _, _, compose = sweep
    with pytest.raises(ConfigCompositionException) as error:
        compose(line, 0)
    assert line[0].split("=")[0] in str(error.value)
