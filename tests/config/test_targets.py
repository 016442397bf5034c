"""What each protocol trains on and scores, by which classifier, and where a method is refused."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from hydra import compose, initialize_config_dir
from pyarrow import parquet

from mmadapt import app
from mmadapt.config.hydra_versions import BASE
from mmadapt.config.identity import fingerprint, relevant
from mmadapt.config.paths import CONF_DIR
from mmadapt.config.schema import register_resolvers, resolve
from mmadapt.config.targets import scored_sets
from mmadapt.errors import UserError
from mmadapt.methods.transfer import choose_classifier, positions

register_resolvers()
NAMES = ("ant", "bee", "cat", "dog", "eel")
SET = """# @package _global_
data:
  _target_: mmadapt.data.folder.FolderData
  name: {name}
  root: {root}
  shots: ${{shots}}
  split_seed: ${{seed}}
  subset: all
"""


def resolved(*overrides):
    with initialize_config_dir(str(CONF_DIR), **BASE):
        return resolve(compose("config", overrides=list(overrides)))


@pytest.fixture(scope="module")
def zoo(tmp_path_factory, write_tree):
    """A source of five classes, a shift of three of them, a shift of all, and a set of other classes."""
    root = tmp_path_factory.mktemp("zoo")
    (root / "conf" / "data").mkdir(parents=True)
    sets = {"zoo": NAMES, "zoo_some": ("bee", "dog", "eel"), "zoo_fog": NAMES, "farm": ("cow", "hen")}
    for place, (name, classes) in enumerate(sets.items()):
        counts = {f"{split}/{c}": n for split, n in (("train", 4), ("val", 2), ("test", 3)) for c in classes}
        tree = write_tree(root / f"{place}_{name}", counts)
        (root / "conf" / "data" / f"{name}.yaml").write_text(SET.format(name=name, root=tree))
    return root


@pytest.fixture
def run(zoo, tmp_path, small_clip, monkeypatch):
    """Run the command line in this process; return the result."""

    def execute(method, *arguments):
        app.outcomes.clear()
        monkeypatch.setenv("HYDRA_FULL_ERROR", "")  # main() sets it; other tests must not see that
        monkeypatch.delenv("HYDRA_FULL_ERROR")
        command = ["mmadapt", "--config-dir", str(zoo / "conf"), f"method={method}", "shots=2", "trainer=cpu",
                   "clip.arch=small-clip", "clip.pretrained=null", f"paths.features={zoo / 'features'}",
                   f"paths.results={tmp_path}", "logger=none", *arguments]  # fmt: skip
        monkeypatch.setattr(sys, "argv", command)
        app.main()
        return app.outcomes[0].result

    return execute


TARGETS = ("protocol=domain_generalization", "data=zoo", "protocol.targets=[zoo_fog,zoo_some]")
SHORT = ("method.epochs=1",)


@pytest.mark.parametrize("method", ["clip_adapter", "coop", "cocoop", "maple"])
def test_base_to_new_scores_each_half_by_its_own_names(run, method):
    depth = ["method.depth=2"] if method == "maple" else []
    result = run(method, "protocol=base_to_new", "data=zoo", *SHORT, *depth)
    base, new = result.scores["base"], result.scores["new"]
    assert (base.classes, base.total, base.classifier) == (3, 9, "own")
    assert (new.classes, new.total, new.classifier) == (2, 6, "names")
    assert result.data["classes"] == 3
    name, value = result.headline()
    assert name == "H"
    assert value == pytest.approx(2 / (1 / base.top1 + 1 / new.top1) if base.top1 * new.top1 else 0)


def test_zero_shot_on_a_half_is_a_classifier_of_its_names_alone(run):
    result = run("zero_shot", "protocol=base_to_new", "data=zoo")
    alone = run("zero_shot", "data=zoo", "data.subset=new", "overwrite=true")
    new = result.scores["new"]
    assert (new.top1, new.nll) == (alone.scores["test"].top1, alone.scores["test"].nll)


@pytest.mark.parametrize(
    ("method", "rule"),
    [("zero_shot", "names"), ("mm_adapter", "names"), ("tip_adapter", "sliced"), ("xmadapter", "sliced"),
     ("linear_probe", "sliced"), ("comma", "names")],
)  # fmt: skip
def test_a_shift_of_some_classes(run, method, rule):
    short = SHORT if method in ("mm_adapter", "xmadapter", "comma") else ()
    depth = ["method.depth=2"] if method == "comma" else []
    result = run(method, *TARGETS, *short, *depth)
    assert [(name, s.classifier) for name, s in result.scores.items()] == [
        ("zoo", "own"), ("zoo_fog", "own"), ("zoo_some", rule)
    ]  # fmt: skip
    assert [s.classes for s in result.scores.values()] == [5, 5, 3]
    assert [s.data for s in result.scores.values()] == ["zoo", "zoo_fog", "zoo_some"]
    _, value = result.headline()
    assert value == pytest.approx((result.scores["zoo_fog"].top1 + result.scores["zoo_some"].top1) / 2)


def test_a_sliced_score_is_the_softmax_over_the_logits_of_the_classes_that_occur(run, tmp_path):
    run("tip_adapter", *TARGETS, "save_predictions=true")
    file = tmp_path / "main" / "domain_generalization" / "custom" / "zoo" / "tip_adapter" / "2shot" / "seed1"
    file = next(tmp_path.rglob("predictions.parquet"), file)
    rows = parquet.read_table(file).to_pandas()
    some = rows[rows["set"] == "zoo_some"]
    assert set(some["predicted_class"]) <= {"bee", "dog", "eel"}
    assert some["confidence"].min() >= 1 / 3
    assert sorted(rows["image"][:3]) == ["test/ant/000.png", "test/ant/001.png", "test/ant/002.png"]
    assert (rows["correct"] == (rows["label"] == rows["predicted"])).all()
    details = json.loads((file.parent / "details.json").read_text())["sets"]
    assert sum(details["zoo_some"]["correct"]) == int(some["correct"].sum())


@pytest.mark.parametrize("method", ["tip_adapter", "tip_adapter_f", "xmadapter", "linear_probe"])
@pytest.mark.parametrize("where", [("protocol=base_to_new", "data=zoo"),
                                   ("protocol=cross_dataset", "data=zoo", "protocol.targets=[farm]")])  # fmt: skip
def test_a_method_that_is_not_defined_on_new_classes_is_refused_before_training(
    run, method, where, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("mmadapt.runs.build._backbone", lambda node: pytest.fail("CLIP was loaded"))
    with pytest.raises(SystemExit) as stop:
        run(method, *where)
    assert stop.value.code == 1
    message = capsys.readouterr().err
    assert f"{method} is not defined on 2 of the 2 classes of " in message
    assert ("protocol.new_classes=text_only" in message) == (method != "linear_probe")
    assert not list(tmp_path.rglob("result.json"))


def test_class_specific_contexts_are_refused_on_other_classes(run, capsys):
    with pytest.raises(SystemExit):
        run("coop", "protocol=base_to_new", "data=zoo", "method.class_specific=true", *SHORT)
    assert "coop is not defined on 2 of the 2 classes of new" in capsys.readouterr().err


def test_the_text_side_of_a_cache_of_images_is_zero_shot_clip(run):
    targets = ("protocol=cross_dataset", "protocol.source=zoo", "protocol.targets=[farm]")
    cache = run("tip_adapter", *targets, "protocol.new_classes=text_only").scores["farm"]
    zero_shot = run("zero_shot", *targets).scores["farm"]
    assert (cache.classifier, zero_shot.classifier) == ("text_only", "names")
    assert (cache.top1, cache.nll) == (zero_shot.top1, pytest.approx(zero_shot.nll))


def test_the_text_side_of_xmadapter_has_a_text_cache(run):
    targets = (
        "protocol=cross_dataset",
        "data=zoo",
        "protocol.targets=[farm]",
        "protocol.new_classes=text_only",
    )
    score = run("xmadapter", *targets, *SHORT).scores["farm"]
    assert score.classifier == "text_only"
    assert score.nll != run("zero_shot", *targets, "overwrite=true").scores["farm"].nll


def test_a_finished_run_is_run_again_if_files_are_asked_for_that_it_lacks(run, tmp_path):
    base = ("zero_shot", "protocol=base_to_new", "data=zoo")
    first = run(*base)
    folder = app.outcomes[0].run_dir
    assert not (folder / "predictions.parquet").exists()
    again = run(*base, "save_predictions=true", "save_confusion=true")
    assert app.outcomes[0].status == "done"
    assert again.scores == first.scores
    assert (folder / "predictions.parquet").exists()
    details = json.loads((folder / "details.json").read_text())["sets"]["new"]
    assert torch.tensor(details["confusion"]).sum(dim=1).tolist() == details["total"] == [3, 3]
    run(*base, "save_predictions=true")
    assert app.outcomes[0].status == "skipped"


def test_rules():
    own = ("a", "b", "c")
    rule = {t: choose_classifier("m", t, own, own, "x") for t in ("names", "text_only", "none")}
    assert set(rule.values()) == {"own"}
    assert choose_classifier("m", "names", own, ("c", "a"), "x") == "names"
    assert choose_classifier("m", "none", own, ("c", "a"), "x") == "sliced"
    assert choose_classifier("m", "text_only", own, ("d",), "x", "text_only") == "text_only"
    with pytest.raises(UserError, match="such as 'd'"):
        choose_classifier("m", "none", own, ("d",), "x", "text_only")
    with pytest.raises(
        UserError, match=r"protocol\.new_classes='texts' is unknown \(did you mean 'text_only'"
    ):
        choose_classifier("m", "text_only", own, ("d",), "x", "texts")  # type: ignore[arg-type]
    assert positions(own, ("c", "a")) == [2, 0]


def test_the_targets_of_the_papers():
    config = resolved("protocol=domain_generalization")
    assert list(scored_sets(config)) == [
        "imagenet",
        "imagenetv2",
        "imagenet_sketch",
        "imagenet_a",
        "imagenet_r",
    ]
    config = resolved("protocol=cross_dataset")
    assert len(scored_sets(config)) == 11
    assert config["clip"]["arch"] == "ViT-B-16-quickgelu"
    assert scored_sets(config)["dtd"]["templates"] == "{} texture."
    assert resolved("protocol=domain_generalization", "data=shapes")["clip"]["arch"] == "mmadapt-tiny"


def test_a_target_follows_the_runs_paths_and_the_fingerprint_ignores_them():
    here = resolved("protocol=cross_dataset", "paths.data=/here", "data.num_workers=0")
    there = resolved("protocol=cross_dataset", "paths.data=/there")
    assert here["protocol"]["sets"]["dtd"]["root"] == "/here"
    assert here["protocol"]["sets"]["dtd"]["num_workers"] == 0
    assert fingerprint(here) == fingerprint(there)
    assert "protocol.sets.dtd.templates" in relevant(here)
    assert fingerprint(resolved("protocol=cross_dataset", "protocol.targets=[dtd]")) != fingerprint(here)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["protocol=cross_dataset", "data=dtd"], "which are the targets of dtd? They are known for imagenet, shapes"),
        (["protocol=cross_dataset", "protocol.targets=[dtdd]"], "data=dtdd does not exist (did you mean 'dtd'?)"),
        (["protocol=cross_dataset", "protocol.targets=[dtd,dtd]"], "must differ"),
        (["protocol=cross_dataset", "protocol.source=dtd"], "protocol.source=dtd and data=imagenet differ"),
        (["protocol=base_to_new", "data.subset=new"], "data.subset=new: protocol=base_to_new chooses the classes"),
        (["protocol.name=few_shots"], "protocol.name='few_shots' is unknown (did you mean 'few_shot'?)"),
        (["protocol=cross_dataset", "protocol.targets=[folder]"], "data=folder does not say its root"),
    ],
)  # fmt: skip
def test_bad_protocols_are_refused(overrides, message):
    with pytest.raises(UserError) as caught:
        resolved(*overrides)
    assert message in str(caught.value)
