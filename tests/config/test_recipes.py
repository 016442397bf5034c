"""Each recipe names its paper, composes for the cells of its grid, and its offline twin runs."""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import replace
from functools import cache

import pytest
import yaml
from hydra import compose, initialize_config_dir

from mmadapt import app
from mmadapt.config.build import check_keys
from mmadapt.config.hydra_versions import BASE
from mmadapt.config.identity import relevant
from mmadapt.config.paths import CONF_DIR
from mmadapt.config.schema import register_resolvers, resolve
from mmadapt.config.targets import PROTOCOLS, scored_sets
from mmadapt.data.shapes import dataset as shapes
from mmadapt.data.shapes import specs as shapes_specs

register_resolvers()
FOLDER = CONF_DIR / "experiment"
RECIPES = sorted(file.stem for file in FOLDER.glob("*.yaml") if "sweeper" in file.read_text(encoding="utf-8"))
PAPERS = [name for name in RECIPES if not name.endswith("_ablation")]
METHODS = sorted(file.stem for file in (CONF_DIR / "method").glob("*.yaml"))
LIVE = {"clip", "classes", "text_features"}
VIEWS = {
    "few_shot": {"methods-by-shots", "methods-by-data", "cost"},
    "base_to_new": {"base-new"},
    "cross_dataset": {"cross-dataset"},
    "domain_generalization": {"shifts"},
}


@cache
def composed(*overrides):
    with initialize_config_dir(str(CONF_DIR), **BASE):
        return compose("config", overrides=["paths.features=/nowhere", *overrides], return_hydra_config=True)


@cache
def resolved(*overrides):
    with initialize_config_dir(str(CONF_DIR), **BASE):
        return resolve(compose("config", overrides=["paths.features=/nowhere", *overrides]))


def grid(name, *overrides):
    """The values that a recipe sweeps over, by key."""
    params = composed(f"experiment={name}", *overrides).hydra.sweeper.params
    return {key: str(values).split(",") for key, values in params.items()}


def raw(name):
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))


def some_cells(name):
    """The first and the last cell, and every method once; `test_configs` has every data set and tuned value."""
    params = grid(name)
    ends = [{key: values[at] for key, values in params.items()} for at in (0, -1)]
    ends += [{**ends[0], "method": method} for method in params.get("method", [])]
    return [dict(cell) for cell in dict.fromkeys(tuple(cell.items()) for cell in ends)]


def test_every_founding_paper_has_its_recipes():
    tables = {"base_to_new": 4, "cross_dataset": 2, "domain_generalization": 5}
    for protocol, number in tables.items():
        assert len([name for name in PAPERS if name.endswith(protocol)]) == number
    swept = set(itertools.chain.from_iterable(grid(name)["method"] for name in PAPERS))
    assert swept == set(METHODS)


@pytest.mark.parametrize("name", PAPERS)
def test_the_header_names_the_paper_and_the_deviations(name):
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    header = "\n".join(itertools.takewhile(lambda line: line.startswith("#"), lines))
    assert header.startswith("# @package _global_\n")
    assert "arXiv 2" in header
    assert "# Deviations: " in header


@pytest.mark.parametrize("name", PAPERS)
def test_the_report_shows_what_the_recipe_runs(name):
    recipe, cfg = raw(name), composed(f"experiment={name}")
    assert recipe["tag"] == name
    report, params = recipe["report"], grid(name)
    assert report["view"] in VIEWS[cfg.protocol.name]
    assert report["methods"] == params["method"]
    assert [str(shots) for shots in report.get("shots", params["shots"])] == params["shots"]
    assert report["against"] == "published"


@pytest.mark.parametrize("name", RECIPES)
def test_the_report_is_read_by_the_command_that_shows_it(name):
    options = pytest.importorskip("mmadapt.collect.options")
    found = options.read_options(["--experiment", name])
    assert [root.name for root in found.roots] == [name]
    assert found.by_tag == raw(name)["report"].get("by_tag", False)


@pytest.mark.parametrize("name", RECIPES)
def test_cells_compose_and_their_keys_are_parameters(name):
    for cell in some_cells(name):
        config = resolved(f"experiment={name}", *(f"{key}={value}" for key, value in cell.items()))
        check_keys(config["method"], "method", LIVE)
        for data in scored_sets(config).values():
            check_keys(data, "data")
        assert "report" not in relevant(config)


def test_values_for_a_cell_are_named_by_their_recipe():
    line = "override /tuned/recipe"
    named = {
        f"{name}_{data}_{method}"
        for name in PAPERS
        if {line: f"{name}_${{data}}_${{method}}"} in raw(name).get("defaults", [])
        for data, method in itertools.product(grid(name)["data"], grid(name)["method"])
    }
    assert {file.stem for file in (CONF_DIR / "tuned" / "recipe").glob("*.yaml")} <= named


@pytest.mark.parametrize("method", METHODS)
def test_values_for_a_protocol_do_not_reach_the_shapes(method):
    of = {p: resolved(f"method={method}", "data=shapes", f"protocol={p}")["method"] for p in PROTOCOLS}
    assert [p for p in PROTOCOLS if of[p] != of["few_shot"]] == []


@pytest.mark.parametrize("name", PAPERS)
def test_the_offline_twin_has_the_recipe_s_grid_and_the_values_of_the_shapes(name):
    params, twin = grid(name), grid(name, "sweep=offline")
    assert twin == {**params, "data": ["shapes"], "clip": ["tiny"]}
    for method in params["method"]:
        typed = (f"method={method}", "data=shapes", "shots=4")
        config = resolved(f"experiment={name}", "sweep=offline", *typed)
        assert config["clip"]["name"] == "tiny"
        assert config["method"] == resolved(*typed)["method"]
        assert config["data"]["templates"] == ["a photo of a {}."]
        assert all(sets["name"].startswith("shapes") for sets in scored_sets(config).values())


def test_the_command_line_wins_over_the_sweep_the_sweep_over_the_recipe_the_recipe_over_the_protocol():
    assert composed("protocol=domain_generalization").clip.name == "vit_b16"
    recipe = "experiment=xmadapter_domain_generalization"
    assert (composed(recipe).clip.name, composed(recipe).data.name) == ("rn50", "imagenet")
    twin = composed(recipe, "sweep=offline")
    assert (twin.clip.name, twin.data.name) == ("tiny", "shapes")
    assert composed(recipe, "sweep=offline", "clip=vit_b32").clip.name == "vit_b32"


def test_what_the_papers_set_for_a_protocol_or_for_a_cell_of_a_table():
    deep = [resolved("method=maple", f"protocol={p}", "data=imagenet")["method"] for p in PROTOCOLS]
    assert [m["depth"] for m in deep] == [9, 9, 3, 3]
    assert [m["epochs"] for m in deep] == [5, 5, 2, 2]
    assert [m["optimizer"]["lr"] for m in deep] == [3.5e-3, 3.5e-3, 2.6e-3, 2.6e-3]
    shifts = [f"experiment={name}_domain_generalization" for name in ("coop", "maple", "comma")]
    coop = [resolved(name, "method=coop")["method"] for name in shifts]
    assert [m["ctx_init"] for m in coop] == [None, "a photo of a", "a photo of a"]
    assert [m["epochs"] for m in coop] == [50, 50, 50]
    tip = "experiment=tip_adapter_table"
    assert resolved(tip, "method=zero_shot", "data=imagenet")["data"]["templates"] == "imagenet7"
    assert resolved(tip, "method=zero_shot", "data=dtd")["data"]["templates"] == "{} texture."
    assert list(scored_sets(resolved("experiment=tip_adapter_domain_generalization", "method=coop"))) == [
        "imagenet", "imagenetv2", "imagenet_sketch",
    ]  # fmt: skip
    teacher = resolved("experiment=comma_base_to_new", "method=comma", "data=dtd")["method"]["kd_template"]
    assert teacher == "a photo of a {}, a type of texture."


SHIFTS = ["blurry", "foggy", "inverted", "night", "noise", "pixelated", "sketch"]
SETS = {
    "base_to_new": ["base", "new"],
    "cross_dataset": [
        "shapes",
        *(f"shapes_{kind}" for kind in ("form", "colour", "surface", "pair", "count")),
    ],
    "domain_generalization": ["shapes", *(f"shapes_{kind}" for kind in SHIFTS)],
    "few_shot": ["test"],
}


def shares():
    """What each twin runs here: the recipe's own method, the last, and others if no recipe of the protocol did."""
    protocol = {name: composed(f"experiment={name}").protocol.name for name in PAPERS}
    seen = {(protocol[name], grid(name)["method"][-1]) for name in PAPERS}
    shared = {}
    for name in PAPERS:
        *others, own = grid(name)["method"]
        shared[name] = [method for method in others if (protocol[name], method) not in seen] + [own]
        seen |= {(protocol[name], method) for method in shared[name]}
    return shared


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """The feature store of worlds that hold two training, one val and two test images of each class."""
    small = {name: replace(spec, per_class=(2, 1, 2)) for name, spec in shapes_specs.worlds().items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes_specs, "worlds", lambda: small)
        shapes._chunk.cache_clear()
        yield tmp_path_factory.mktemp("features")
    shapes._chunk.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPERS)
def test_the_offline_twin_runs(name, features, tmp_path, monkeypatch):
    protocol, methods = composed(f"experiment={name}").protocol.name, shares()[name]
    app.outcomes.clear()
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")  # main() sets it; other tests must not see that
    monkeypatch.delenv("HYDRA_FULL_ERROR")
    command = ["mmadapt", "-m", f"experiment={name}", "sweep=offline", "seed=1", "shots=1", "trainer=cpu",
               f"method={','.join(methods)}", "logger=none", f"paths.features={features}",
               f"paths.results={tmp_path}"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", command)
    app.main()
    found = {}
    for file in sorted((tmp_path / name).rglob("result.json")):
        result = json.loads(file.read_text(encoding="utf-8"))
        assert file.parent.relative_to(tmp_path / name).parts[:3] == (protocol, "tiny", "shapes")
        found[result["key"]["method"]] = list(result["scores"])
    assert found == dict.fromkeys(methods, SETS[protocol])
