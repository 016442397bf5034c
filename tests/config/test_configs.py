"""Every option of every configuration group composes, and its keys are parameters of its target."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from mmadapt.config.build import check_keys, instantiate, locate
from mmadapt.config.hydra_versions import BASE
from mmadapt.config.identity import differences, fingerprint
from mmadapt.config.paths import CONF_DIR
from mmadapt.config.schema import register_resolvers, resolve
from mmadapt.errors import UserError

register_resolvers()
OPTIONS = [
    (group.name, file.stem)
    for group in sorted(CONF_DIR.iterdir())
    if group.is_dir()
    and group.name not in ("hydra", "tuned", "benchmark")  # benchmark: what data YAMLs share
    for file in sorted(group.glob("*.yaml"))
]
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
    "arguments", [["--help"], ["--cfg", "job"], ["--cfg", "job", "method=tip_adapter_f", "clip=rn50"]]
)
def test_help_and_configuration_import_no_torch(arguments, tmp_path):
    done = run_python(HEAVY, *arguments, cwd=tmp_path)
    assert json.loads(done.stdout.splitlines()[-1]) == [], done.stderr
    assert "max_epochs" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("mmadapt.clip.ClipBackbone", "mmadapt.clip.backbone"),
        ("mmadapt.data.folder.FolderData", "mmadapt.data.folder.dataset"),
        ("mmadapt.data.shapes.ShapesData", "mmadapt.data.shapes.dataset"),
        ("mmadapt.data.fgvc.FgvcData", "mmadapt.data.published.fgvc"),
        ("mmadapt.data.imagenet.ImageNetData", "mmadapt.data.published.imagenet"),
        ("mmadapt.data.imagenet_shift.ImageNetShiftData", "mmadapt.data.published.imagenet_shift"),
        ("mmadapt.data.split_file.SplitFileData", "mmadapt.data.published.split_file"),
        ("mmadapt.methods.tip_adapter_f.TipAdapterF", "mmadapt.methods.tip_adapter"),
        ("mmadapt.optim.DasslCosine", "mmadapt.methods.parts.schedules"),
    ],
)
def test_targets_of_earlier_layouts_are_found_where_they_are_now(old, new):
    assert locate(old, "method").__module__ == new


def test_a_nested_target_of_an_earlier_layout_is_built():
    node = {"_target_": "mmadapt.optim.Cosine", "_partial_": True}
    assert instantiate(node, "method.scheduler").func.__module__ == "mmadapt.methods.parts.schedules"
