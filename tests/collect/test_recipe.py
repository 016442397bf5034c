"""The table of a recipe."""

import pytest
from tests.support.result_trees import add, rows, score

from mmadapt.collect.results.recipe import KEYS, read_recipe
from mmadapt.errors import UserError

RECIPE = """\
# @package _global_
defaults:
  - override /protocol: base_to_new
tag: study
report: {view: base-new, shots: [16], methods: [zero_shot, coop], seeds: [1, 2]}
"""


@pytest.fixture
def conf(tmp_path, monkeypatch):
    """A folder of recipes in place of ours; returns a function that writes one."""
    monkeypatch.setattr("mmadapt.collect.results.recipe.CONF_DIR", tmp_path / "conf")
    (tmp_path / "conf/experiment").mkdir(parents=True)

    def write(text, name="study"):
        (tmp_path / f"conf/experiment/{name}.yaml").write_text(text)

    return write


def add_runs(root, tag="study"):
    for method, shots, base in (("coop", 16, 0.8), ("coop", 4, 0.7), ("maple", 16, 0.9)):
        scores = {"base": score(base), "new": score(0.6)}
        add(root, scores=scores, method=method, shots=shots, tag=tag, protocol="base_to_new")


def test_a_recipe_prints_its_table(tmp_path, show, conf):
    conf(RECIPE)
    add_runs(tmp_path / "runs")
    add_runs(tmp_path / "runs", tag="other")
    status, out, err = show("--experiment", "study", root=tmp_path / "runs")
    assert status == 0
    assert list(rows(out))[2:] == ["coop"]  # neither maple nor the other campaign
    assert out.count("| top1") == 1
    assert err.splitlines() == [
        "no results yet of methods: zero_shot (--check lists what is missing)",
        "no results yet of seeds: 2 (--check lists what is missing)",
    ]


def test_what_is_typed_goes_before_the_recipe(tmp_path, show, conf):
    conf(RECIPE)
    add_runs(tmp_path / "runs")
    out = show("--experiment", "study", "--shots", "4", "--view", "cost", root=tmp_path / "runs")[1]
    assert "Cost and accuracy (H) on dtd, 4 shots" in out
    status, _, err = show("--experiment", "study", "--methods", "zero_shot", root=tmp_path / "runs")
    assert (status, "No result has method 'zero_shot'" in err) == (1, True)  # typed: a mistake


def test_a_recipe_without_any_of_its_methods_is_not_all_methods(tmp_path, show, conf):
    conf(RECIPE.replace("zero_shot, coop", "comma"))
    add_runs(tmp_path / "runs")
    status, out, err = show("--experiment", "study", root=tmp_path / "runs")
    assert (status, out, "No result has method 'comma'" in err) == (1, "", True)


def test_check_knows_the_grid_of_the_recipe(tmp_path, show, conf):
    conf(RECIPE.replace("zero_shot, coop", "coop"))
    add_runs(tmp_path / "runs")
    status, out, _ = show("--experiment", "study", "--check", root=tmp_path / "runs")
    assert status == 1
    assert out.splitlines()[1].endswith("data=dtd method=coop shots=16 seed=2")


def test_default_root(tmp_path, show, conf, monkeypatch, capsys):
    from mmadapt.collect.__main__ import main

    conf(RECIPE)
    add_runs(tmp_path / "multirun")
    monkeypatch.chdir(tmp_path)
    assert main(["--experiment", "study"]) == 0
    assert "80.00" in capsys.readouterr().out


def test_variants_lie_below_one_tag(tmp_path, show, conf):
    conf(
        "tag: study/${method.fusion}-x\nreport: {by_tag: true, compare: ['a [study/f-x]', 'a [study/g-x]']}\n"
    )
    for tag, top1 in (("study/f-x", 0.6), ("study/g-x", 0.5)):
        add(tmp_path / "runs", top1, method="a", tag=tag, config={"method": {"fusion": tag}})
    out = show("--experiment", "study", root=tmp_path / "runs")[1]
    assert rows(out)["dtd"] == ["+10.00 (1)"]


def test_published_beside_ours(tmp_path, show, conf):
    conf("tag: study\nreport: {against: published}\n")
    add_runs(tmp_path / "runs")
    out = show("--experiment", "study", root=tmp_path / "runs")[1]
    assert "ours − published" in out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tag: study\nreport: {veiw: base-new}\n", "no option 'veiw' (did you mean 'view'?)"),
        ("tag: study\nreport: {view: base_new}\n", "invalid choice: 'base_new'"),
        ("tag: study\nreport: {shots: [x]}\n", "'x' is not a list such as 1,2,4"),
        ("tag: study\nreport: {by_tag: 1}\n", "report.by_tag is 1"),
        ("tag: study\nreport: {view: true}\n", "report.view is True"),
        ("tag: study\nreport: {compare: [a]}\n", "expected 2 arguments"),
        ("tag: study\nreport: base-new\n", "report is 'base-new'"),
        ("shots: 4\n", "has no tag to find its results by"),
        ("tag: ${method.name}\n", "has no tag to find its results by"),
        ("tag: [\n", "Cannot read"),
    ],
)
def test_a_recipe_that_makes_no_sense(tmp_path, show, conf, text, message):
    conf(text)
    status, out, err = show("--experiment", "study", root=tmp_path)
    assert (status, out) == (1, "")
    assert message in err
    assert "study.yaml" in err


def test_unknown_recipe(tmp_path, show, conf):
    conf(RECIPE)
    status, _, err = show("--experiment", "studdy", root=tmp_path)
    assert (status, "No experiment 'studdy' (did you mean 'study'?)" in err) == (1, True)
    assert show("--experiment", "../experiment/study", root=tmp_path)[0] == 1


def test_our_recipes_can_be_read():
    from mmadapt.config.paths import CONF_DIR, options

    assert read_recipe("xmadapter_ablation").folder == "xmadapter_ablation"
    names = options(CONF_DIR / "experiment")
    assert len(names) > 15
    for name in names:
        assert read_recipe(name).folder


def test_report_takes_the_options_of_the_command_line(capsys):
    from mmadapt.collect.__main__ import main

    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert all(
        f"--{key.replace('_', '-')} " in shown or f"--{key.replace('_', '-')}\n" in shown for key in KEYS
    )


def test_read_recipe_names_the_folder(tmp_path):
    with pytest.raises(UserError, match="There are: none"):
        read_recipe("x", tmp_path)
