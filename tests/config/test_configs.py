"""Every option of every configuration group composes, and its keys are parameters of its target."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from mmadapt.config.build import check_keys, instantiate, locate
from mmadapt.config.hydra_versions import BASE, list_choices
from mmadapt.config.identity import differences, fingerprint
from mmadapt.config.paths import CONF_DIR, is_choice, options
from mmadapt.config.schema import register_resolvers, resolve
from mmadapt.data.base import ClassSet
from mmadapt.errors import UserError

register_resolvers()
GROUPS = sorted(path.name for path in CONF_DIR.iterdir() if path.is_dir() and is_choice(path.name))
OPTIONS = [(group, option) for group in GROUPS for option in options(CONF_DIR / group) if group != "hydra"]
LIVE = {"method": {"clip", "classes", "text_features"}, "trainer": set(), "data": set(), "clip": set()}


def composed(*overrides: str):
    with initialize_config_dir(str(CONF_DIR), **BASE):
        return compose("config", overrides=["paths.features=/nowhere", *overrides])


def resolved(*overrides: str) -> dict:
    return resolve(composed(*overrides))


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_names_real_parameters(group, option):
    extra = ["data.root=/images"] if (group, option) == ("data", "folder") else []
    config = resolved(f"{group}={option}", *extra)
    for part, live in LIVE.items():
        check_keys(config[part], part, live)


@pytest.mark.parametrize("file", sorted((CONF_DIR / "tuned").rglob("*.yaml")), ids=lambda f: f.stem)
def test_tuned_values_are_parameters_of_their_method(file):
    methods = [m.stem for m in (CONF_DIR / "method").glob("*.yaml") if file.stem.endswith(f"_{m.stem}")]
    method = max(methods, key=len)
    assert (CONF_DIR / "data").is_dir()
    cfg = OmegaConf.merge(composed(f"method={method}"), OmegaConf.load(file))
    assert isinstance(cfg, type(composed()))
    check_keys(resolve(cfg)["method"], "method", LIVE["method"])


def test_tuned_values_of_the_chosen_pair_are_picked_up():
    assert resolved("data=shapes", "method=clip_adapter")["method"]["optimizer"]["lr"] == 0.1
    assert resolved("data=folder", "data.root=/x", "method=clip_adapter")["method"]["optimizer"]["lr"] == 2e-3


RELEASED = {  # gaopengcuhk/Tip-Adapter, configs/<data>.yaml: init_alpha, search_scale
    "caltech101": (3, [12, 5]),
    "dtd": (2, [13, 13]),
    "eurosat": (2, [12, 10]),
    "fgvc_aircraft": (5, [30, 30]),
    "food101": (1.17, [10, 10]),
    "imagenet": (1.17, [7, 3]),
    "oxford_flowers": (10, [50, 50]),
    "oxford_pets": (1.17, [7, 3]),
    "stanford_cars": (3, [20, 10]),
    "sun397": (1.17, [12, 10]),
    "ucf101": (3, [7, 3]),
}
CACHES = {"tip_adapter": (0, 0), "tip_adapter_f": (20, 100), "xmadapter": (20, 100)}
"""Epochs, and those for EuroSAT."""


@pytest.mark.parametrize("method", CACHES)
@pytest.mark.parametrize("data", options(CONF_DIR / "data"))
def test_caches_start_and_search_as_released_for_each_data_set(data, method):
    alpha, scale = RELEASED.get(data, RELEASED["imagenet"])
    if data == "shapes":  # tuned/
        alpha, scale = (40, [20, 60]) if method == "xmadapter" else (5, [30, 30])
    root = ["data.root=/images"] if data == "folder" else []
    found = resolved(f"data={data}", f"method={method}", *root)["method"]
    expected = (
        repr(alpha),
        scale,
        CACHES[method][data == "eurosat"],
    )  # repr: 3 and 3.0 have two fingerprints
    assert (repr(found["alpha"]), found["search_scale"], found["epochs"]) == expected


def test_a_folder_is_no_published_data_set_and_the_command_line_wins_over_the_table():
    own = resolved("data=folder", "data.root=/images/eurosat", "method=tip_adapter_f")
    assert (own["data"]["name"], own["method"]["alpha"], own["method"]["epochs"]) == ("eurosat", 1.17, 20)
    typed = ["method.alpha=9", "method.search_scale=[1,2]", "method.epochs=3"]
    config = resolved("data=eurosat", "method=tip_adapter_f", *typed)
    assert [config["method"][key] for key in ("alpha", "search_scale", "epochs")] == [9, [1, 2], 3]
    assert config["trainer"]["max_epochs"] == 3


def test_hydra_lists_choices_only():
    list_choices()
    list_choices()
    with initialize_config_dir(str(CONF_DIR), **BASE):
        loader = GlobalHydra.instance().config_loader()
        assert [group for group in loader.list_groups("") if (CONF_DIR / group).is_dir()] == GROUPS
        assert loader.get_group_options("data") == options(CONF_DIR / "data")
    assert "_published" not in options(CONF_DIR / "data")
    assert "tuned" not in GROUPS


def test_a_data_set_may_choose_its_backbone_and_the_command_line_still_wins():
    assert resolved()["clip"]["arch"] == "mmadapt-tiny"
    assert resolved("clip=rn50")["clip"]["arch"] == "RN50-quickgelu"
    assert resolved("data=folder", "data.root=/x")["clip"]["arch"] == "ViT-B-16-quickgelu"


def test_openai_weights_come_with_quickgelu():
    for file in (CONF_DIR / "clip").glob("*.yaml"):
        clip = OmegaConf.load(file)
        assert clip.pretrained != "openai" or clip.arch.endswith("-quickgelu"), file


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+sede=2"], "'sede' is not a key of the configuration (did you mean 'seed'?)"),
        (["shots=0"], "shots=0 must be a whole number of at least 1"),
        (["shots=2.5"], "shots=2.5 must be"),
        (["seed=-1"], "seed=-1 must be"),
        (["tag=../up"], "tag='../up' must be a name"),
        (["overwrite=perhaps"], "overwrite='perhaps' must be true or false"),
        (["data=folder"], "data.root"),
    ],
)
def test_bad_values_are_refused_by_name(overrides, message):
    with pytest.raises(Exception, match=r".") as caught:
        resolve(composed(*overrides))
    assert message in str(caught.value)


def test_seed_zero_is_a_seed_like_any_other():
    assert resolved("seed=0")["seed"] == 0
    assert fingerprint(resolved("seed=0")) != fingerprint(resolved("seed=1"))


def test_an_unknown_key_names_the_accepted_ones():
    node = dict(resolved("method=clip_adapter")["method"], ratoi=0.3)
    with pytest.raises(
        UserError, match=r"method\.ratoi is not a parameter of ClipAdapter \(did you mean 'ratio'\?\)"
    ) as e:
        check_keys(node, "method", LIVE["method"])
    assert "reduction" in str(e.value)
    node = resolved("method=clip_adapter")["method"]
    node["optimizer"]["lrr"] = 1
    with pytest.raises(UserError, match=r"method\.optimizer\.lrr is not a parameter of SGD"):
        check_keys(node, "method", LIVE["method"])


def test_live_objects_cannot_be_set_from_the_configuration():
    node = dict(resolved()["method"], clip="mine")
    with pytest.raises(UserError, match=r"method\.clip is not a parameter"):
        check_keys(node, "method", LIVE["method"])


def test_only_whitelisted_targets_are_built(monkeypatch):
    with pytest.raises(UserError, match="may not be built"):
        instantiate({"_target_": "os.system", "command": "true"}, "method")
    monkeypatch.setenv("MMADAPT_TARGETS", "fractions.")
    assert instantiate({"_target_": "fractions.Fraction", "numerator": 3}, "x") == 3


def test_the_fingerprint_ignores_what_cannot_change_a_number():
    base = resolved()
    same = resolved(
        "tag=other", "overwrite=true", "logger=none", "trainer.accelerator=cpu", "paths.results=/elsewhere"
    )
    other = resolved("method.ratio=0.3")
    assert fingerprint(base) == fingerprint(same)
    assert fingerprint(base) != fingerprint(other)
    assert differences(base, other) == ["method.ratio: 0.2 → 0.3"]


def test_a_class_counts_by_its_name_unless_it_is_a_users():
    base = resolved()
    moved, own = (
        {**base, "method": {**base["method"], "_target_": f"{place}.ClipAdapter"}}
        for place in ("mmadapt.x", "my.x")
    )
    assert fingerprint(moved) == fingerprint(base) != fingerprint(own)


def test_a_key_that_an_old_result_lacks_equals_its_default_of_that_time():
    new, other = resolved(), resolved("trainer.precision=bf16-mixed")
    assert new["trainer"]["precision"] == "32-true"
    keys = ("_target_", "max_epochs", "accelerator", "devices", "enable_progress_bar")
    base = {**new, "trainer": {key: new["trainer"][key] for key in keys}}
    assert differences(base, new) == []
    assert fingerprint(base) == fingerprint(new)
    assert differences(base, other) == ["trainer.precision: (not set) → bf16-mixed"]


def run_python(code: str, *arguments: str, cwd: Path | None = None):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=cwd, check=False
    )


HEAVY = """
import sys, json
from mmadapt.app import main
try:
    main()
finally:
    print()
    print(json.dumps([name for name in ("torch", "lightning", "open_clip") if name in sys.modules]))
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--cfg", "job", "experiment=null", "sweep=null"],
        ["--cfg", "job", "method=tip_adapter_f", "clip=rn50", "experiment=none"],
    ],
)
def test_help_and_configuration_import_no_torch(arguments, tmp_path):
    done = run_python(HEAVY, *arguments, cwd=tmp_path)
    assert json.loads(done.stdout.splitlines()[-1]) == [], done.stderr
    assert "max_epochs" in done.stdout
    assert "tuned" not in done.stdout
    assert "_published" not in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("mmadapt.clip.ClipBackbone", "mmadapt.clip.backbone"),
        ("mmadapt.data.folder.FolderData", "mmadapt.data.folder.dataset"),
        ("mmadapt.data.shapes.ShapesData", "mmadapt.data.shapes.dataset"),
        ("mmadapt.data.fgvc.FgvcData", "mmadapt.data.published.split_file"),
        ("mmadapt.data.published.fgvc.FgvcData", "mmadapt.data.published.split_file"),
        ("mmadapt.data.imagenet.ImageNetData", "mmadapt.data.published.imagenet"),
        ("mmadapt.data.imagenet_shift.ImageNetShiftData", "mmadapt.data.published.imagenet"),
        ("mmadapt.data.split_file.SplitFileData", "mmadapt.data.published.split_file"),
        ("mmadapt.methods.tip_adapter_f.TipAdapterF", "mmadapt.methods.tip_adapter"),
        ("mmadapt.optim.DasslCosine", "mmadapt.methods.parts.schedules"),
    ],
)
def test_targets_of_earlier_layouts_are_found_where_they_are_now(old, new):
    assert locate(old, "method").__module__ == new


def test_a_nested_target_of_an_earlier_layout_is_built(small_clip):
    scheduler = {"_target_": "mmadapt.optim.Cosine", "_partial_": True}
    node = {"_target_": "mmadapt.methods.zero_shot.ZeroShot", "scheduler": scheduler}
    method = instantiate(node, "method", clip=small_clip, classes=ClassSet(("cat", "dog")))
    assert method.scheduler.func.__module__ == "mmadapt.methods.parts.schedules"


def test_every_value_can_be_shown(tmp_path):
    shown = run_python(
        HEAVY, "--cfg", "job", "--resolve", "method=xmadapter", "data=eurosat", cwd=tmp_path
    ).stdout
    method = yaml.safe_load(shown.rpartition("\n[")[0])["method"]
    assert [method[key] for key in ("alpha", "search_scale", "epochs")] == [2, [12, 10], 100]
