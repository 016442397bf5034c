"""Tables, figures and checks as a function of fabricated result files."""

import csv
import io
import itertools
import json
import math
import re
import shlex
import subprocess
import sys

import pytest
from result_trees import add, fail, score

from mmadapt.collect import load_results, summarise, to_frame
from mmadapt.collect.__main__ import main
from mmadapt.collect.consistency import comparable
from mmadapt.collect.table import sort_data
from mmadapt.config import relevant
from mmadapt.errors import UserError


@pytest.fixture
def show(tmp_path, capsys):
    """Run the command line below tmp_path; return exit status, stdout and stderr."""

    def run(*arguments, root=tmp_path):
        status = main([str(root), *map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def rows(markdown, table=0):
    """Return the cells of one Markdown table by row name."""
    blocks = [block for block in markdown.split("\n\n") if block.startswith("|")]
    parsed = [[part.strip() for part in line.strip("|").split("|")] for line in blocks[table].splitlines()]
    return {row[0]: row[1:] for row in parsed}


def captions(markdown):
    return [line for line in markdown.splitlines() if " accuracy (" in line and not line.startswith("|")]


# ---- averages over seeds -------------------------------------------------------------------------


def test_golden_table(tmp_path, show):
    for seed, value in ((1, 0.80), (2, 0.81), (3, 0.85)):
        add(tmp_path, value, seed=seed)
        add(tmp_path, 0.44, method="zero_shot", seed=seed)
        add(tmp_path, value + 0.05, shots=2, seed=seed)
    assert show() == (
        0,
        "Top-1 accuracy (%, ↑) on dtd; scored set: test; protocol: few_shot, version 1; CLIP: vit_b16; "
        "mean ± sample standard deviation (ddof = 1) over n = 3 seeds; selection: last.\n"
        "\n"
        "| top1 (%) ↑ |           1 shot |      2 shots |\n"
        "| ---------- | ---------------: | -----------: |\n"
        "| zero_shot  |     44.00 ± 0.00 |            – |\n"
        "| coop       | **82.00 ± 2.65** | 87.00 ± 2.65 |\n",
        "",
    )


def test_missing_seed_shows_n_and_single_seed_no_std(tmp_path, show):
    for seed in (1, 2, 3):
        add(tmp_path, 0.5, method="a", seed=seed)
    for seed in (1, 2):
        add(tmp_path, 0.6 + seed / 100, method="b", seed=seed)
    add(tmp_path, 0.7, method="c", seed=1)
    _, out, _ = show()
    found = rows(out)
    assert found["a"] == ["50.00 ± 0.00"]
    assert found["b"] == ["61.50 ± 0.71 (2)"]
    assert found["c"] == ["**70.00 (1)**"]
    assert "over n = 3 seeds, or over (n) where given" in out


def test_only_single_seeds(tmp_path, show):
    add(tmp_path, 0.5)
    _, out, _ = show()
    assert rows(out)["coop"] == ["50.00"]
    assert "n = 1 seed, no standard deviation" in out


def test_nan_is_shown_and_stated(tmp_path, show):
    add(tmp_path, 0.5, method="fine")
    add(tmp_path, 0.4, method="good")
    add(tmp_path, 0.9, seed=1)
    add(tmp_path, math.nan, seed=2)
    add(tmp_path, 0.5, data="eurosat", seed=1)
    add(tmp_path, 0.5, data="eurosat", seed=2)
    _, out, _ = show()
    assert rows(out)["coop"] == ["nan"]
    assert rows(out)["fine"] == ["**50.00 (1)**"]  # a NaN is never the best
    assert "- coop, dtd, 1 shot: top1 of seed 2 is not a finite number, so neither is the mean." in out
    assert rows(out, 2)["coop"] == ["nan"]  # the average over data sets


# ---- bold, order, metrics ------------------------------------------------------------------------


def test_ties_within_rounding_are_all_bold(tmp_path, show):
    for method, value in (("a", 0.80001), ("b", 0.80004), ("c", 0.7999)):
        add(tmp_path, value, method=method)
    found = rows(show()[1])
    assert (found["a"], found["b"], found["c"]) == (["**80.00**"], ["**80.00**"], ["79.99"])


@pytest.mark.parametrize(("metric", "best"), [("nll", "**0.500**"), ("ece", "**5.00**")])
def test_lower_is_better(tmp_path, show, metric, best):
    add(tmp_path, method="a", scores={"test": score(0.9, nll=0.5, ece=0.05)})
    add(tmp_path, method="b", scores={"test": score(0.9, nll=0.7, ece=0.07)})
    out = show("--metric", metric)[1]
    assert rows(out)["a"] == [best]
    assert "*" not in rows(out)["b"][0]
    assert "↓" in out
    assert "↑" not in out


def test_macro_accuracy_is_not_micro_accuracy(tmp_path, show):
    add(tmp_path, scores={"test": score(0.9, top1_macro=0.3)})
    assert rows(show("--metric", "top1_macro")[1])["coop"] == ["30.00"]


def test_order_of_data_sets():
    papers = [
        "imagenet",
        "caltech101",
        "oxford_pets",
        "stanford_cars",
        "flowers102",
        "food101",
        "fgvc_aircraft",
    ]
    papers += ["sun397", "dtd", "eurosat", "ucf101"]
    assert sort_data(["zebra", *reversed(papers), "apes"]) == [*papers, "apes", "zebra"]
    assert sort_data(["food101", "oxford_flowers"]) == ["oxford_flowers", "food101"]


def test_methods_by_data_and_order_of_methods(tmp_path, show):
    for method, data in itertools.product(
        ("coop", "zero_shot", "ape", "linear_probe"), ("ucf101", "imagenet")
    ):
        add(tmp_path, 0.5 if data == "ucf101" else 0.7, method=method, data=data, shots=16)
        add(tmp_path, 0.1, method=method, data=data, shots=1)
    out = show("--view", "methods-by-data", "--shots", "16")[1]
    found = rows(out)
    assert list(found)[2:] == ["zero_shot", "linear_probe", "ape", "coop"]
    assert next(iter(found.values())) == ["imagenet", "ucf101", "Average"]
    assert found["coop"] == ["**70.00**", "**50.00**", "**60.00**"]
    assert out.count("top1 (%)") == 1
    assert "16 shots" in captions(out)[0]
    both = show("--view", "methods-by-data")[1]
    assert (rows(both, 0)["coop"][0], rows(both, 1)["coop"][0]) == ("**10.00**", "**70.00**")
    chosen = rows(show("--methods", "coop,ape")[1])
    assert list(chosen)[2:] == ["coop", "ape"]


def test_scored_sets(tmp_path, show):
    add(tmp_path, scores={"new": score(0.6), "base": score(0.8), "all": score(0.7)})
    out = show()[1]
    assert re.findall(r"scored set: (\w+)", out) == ["base", "new", "all"]
    assert [rows(out, i)["coop"] for i in range(3)] == [["80.00"], ["60.00"], ["70.00"]]
    out = show("--set", "new")[1]
    assert re.findall(r"scored set: (\w+)", out) == ["new"]
    status, _, err = show("--set", "bsae")
    assert (status, "did you mean 'base'?" in err) == (1, True)


def test_protocols_and_backbones_have_their_own_tables(tmp_path, show):
    add(tmp_path, 0.5)
    add(tmp_path, 0.6, clip="rn50")
    add(tmp_path, 0.7, protocol="base_to_new", version=2)
    out = show()[1]
    assert [rows(out, i)["coop"] for i in range(3)] == [["70.00"], ["60.00"], ["50.00"]]
    assert "protocol: base_to_new, version 2; CLIP: vit_b16" in captions(out)[0]
    assert "CLIP: rn50" in captions(out)[1]
    assert rows(show("--clip", "rn50")[1])["coop"] == ["60.00"]


# ---- average over data sets ----------------------------------------------------------------------


def test_average_is_over_data_sets_per_seed(tmp_path, show):
    for seed, (one, two) in enumerate(((0.2, 0.8), (0.4, 0.6), (0.3, 0.9)), start=1):
        add(tmp_path, one, data="dtd", seed=seed)
        add(tmp_path, two, data="eurosat", seed=seed)
    out = show()[1]
    assert rows(out, 2)["coop"] == ["53.33 ± 5.77"]  # of 50, 50 and 60; std over all six would be 26.6
    assert "mean over 2 data sets (dtd, eurosat)" in captions(out)[2]


def test_average_needs_every_data_set(tmp_path, show):
    for data in ("dtd", "eurosat"):
        add(tmp_path, 0.5, method="whole", data=data)
    add(tmp_path, 0.9, method="partial", data="eurosat")
    add(tmp_path, 0.9, method="partial", data="eurosat", shots=4)
    out = show()[1]
    assert rows(out, 2)["partial"] == ["–", "–"]
    assert rows(out, 2)["whole"] == ["50.00", "–"]
    assert "- No average for partial at 1, 4 shots: dtd is missing." in out
    assert rows(show("--data", "eurosat")[1])["partial"] == ["**90.00**", "90.00"]


def test_average_needs_every_seed(tmp_path, show):
    for data, seed in (("dtd", 1), ("dtd", 2), ("eurosat", 1)):
        add(tmp_path, 0.5, data=data, seed=seed)
    out = show()[1]
    assert rows(out, 2)["coop"] == ["–"]
    assert "- No average for coop at 1 shot: eurosat lacks seed 2." in out
    assert rows(show("--seeds", "1")[1], 2)["coop"] == ["50.00"]


# ---- what must not be mixed ----------------------------------------------------------------------


def test_configurations_are_not_mixed(tmp_path, show):
    first = add(tmp_path, 0.5, seed=1, config={"method": {"n_ctx": 4, "lr": 1.0, "cap": math.nan}})
    second = add(tmp_path, 0.7, seed=2, config={"method": {"n_ctx": 16, "lr": 1.0, "cap": math.nan}})
    status, out, err = show()
    assert (status, out) == (1, "")
    assert "(method.n_ctx: 4 → 16)" in err
    assert f"{first}, {second}" in err
    assert "lr" not in err
    status, out, _ = show("--allow-mixed")
    assert status == 0
    assert rows(out)["coop"] == ["60.00 ± 14.14†"]
    assert "- † coop, dtd, 1 shot: mixed configurations (method.n_ctx: 4 → 16)." in out


def test_a_key_that_only_one_run_has_is_a_difference(tmp_path, show):
    add(tmp_path, seed=1)
    add(tmp_path, seed=2, config={"extra": None})
    status, _, err = show()
    assert status == 1
    assert "extra: (absent) → None" in err


def test_seeds_and_places_are_not_a_difference(tmp_path, show):
    for seed in (1, 2):
        own = {
            "paths": {"data": f"/disk{seed}"},
            "logger": {"name": f"s{seed}"},
            "tag": f"t{seed}",
            "x": math.nan,
        }
        add(
            tmp_path, seed=seed, config={**own, "trainer": {"devices": seed, "enable_progress_bar": seed > 1}}
        )
    assert show()[0] == 0


def test_comparable_is_the_relevant_configuration_without_seeds():
    config = {
        "seed": 1,
        "shots": 4,
        "paths": {"data": "x"},
        "logger": {"name": "x"},
        "tag": "x",
        "overwrite": True,
        "data": {"split_seed": 1, "paths": "kept", "num_workers": 4, "templates": ["a {}"], "none": {}},
        "trainer": {
            "accelerator": "gpu",
            "devices": 2,
            "strategy": "ddp",
            "num_nodes": 2,
            "enable_x": 1,
            "max_epochs": 5,
        },
    }
    kept = {key: value for key, value in relevant(config).items() if "seed" not in key}
    assert comparable(config) == kept
    assert sorted(kept) == ["data.none", "data.paths", "data.templates", "shots", "trainer.max_epochs"]


def test_configurations_may_differ_between_cells(tmp_path, show):
    add(tmp_path, shots=1, config={"method": {"epochs": 50}})
    add(tmp_path, shots=16, config={"method": {"epochs": 200}})
    assert show()[0] == 0


def test_protocol_versions_are_not_mixed(tmp_path, show):
    first = add(tmp_path, method="a", version=1)
    second = add(tmp_path, method="b", version=2)
    status, _, err = show("--allow-mixed")
    assert status == 1
    assert "versions 1 and 2" in err
    assert f"{first}, {second}" in err


def test_one_seed_under_two_tags(tmp_path, show):
    add(tmp_path, 0.5, tag="main")
    add(tmp_path, 0.6, tag="other")
    add(tmp_path, 0.7, tag="more", seed=2)
    status, _, err = show()
    assert status == 1
    assert "seed 1 twice" in err
    roots = [tmp_path / "main", tmp_path / "more", tmp_path / "main" / ".." / "main"]  # one of them twice
    assert len(load_results(roots)) == 2
    assert to_frame(summarise(load_results(roots)))["n"].tolist() == [2]


def test_dirty_tree(tmp_path, show):
    add(tmp_path, 0.5, method="a", dirty=True)
    add(tmp_path, 0.4, method="b")
    out = show()[1]
    assert rows(out)["a"] == [r"**50.00**\*"]
    assert rows(out)["b"] == ["40.00"]
    assert r"- \* computed by code with uncommitted changes." in out


def test_different_test_sets_are_noted(tmp_path, show):
    add(tmp_path, method="a", scores={"test": score(0.5, total=100)})
    add(tmp_path, method="b", scores={"test": score(0.5, total=99)})
    assert (
        "- dtd: the runs did not score the same images: 99 in 4 classes (b); 100 in 4 classes (a)."
        in show()[1]
    )


def test_selection_rules_are_in_the_caption(tmp_path, show):
    add(tmp_path, method="a", rule="last")
    add(tmp_path, method="b", rule="best_val")
    assert "selection: best_val (b), last (a)." in show()[1]


# ---- formats -------------------------------------------------------------------------------------


def test_latex(tmp_path, show):
    add(tmp_path, 0.5, method="clip_adapter", data="a&b_c", seed=1, dirty=True)
    add(tmp_path, 0.6, method="clip_adapter", data="a&b_c", seed=2)
    add(tmp_path, 0.4, method="coop", data="a&b_c", shots=2)
    add(tmp_path, 0.3, method="ape", data="a&b_c", shots=1)
    caption = (
        r"\caption{Top-1 accuracy (\%, $\uparrow$) on a\&b\_c; scored set: test; protocol: few\_shot, "
        r"version 1; CLIP: vit\_b16; mean $\pm$ sample standard deviation (ddof = 1) over n = 2 seeds, "
        r"or over (n) where given; selection: last.}"
    )
    assert show("--format", "latex")[1].splitlines() == [
        r"% Needs \usepackage{booktabs}.",
        r"\begin{table}",
        r"\centering",
        caption,
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"top1 (\%) $\uparrow$ & 1 shot & 2 shots \\",
        r"\midrule",
        r"ape & 30.00 (1) & -- \\",
        r"clip\_adapter & \textbf{55.00 $\pm$ 7.07}$^{*}$ & -- \\",
        r"coop & -- & 40.00 (1) \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\par\footnotesize * computed by code with uncommitted changes.",
        r"\end{table}",
    ]


def test_csv_and_json_are_long_and_agree(tmp_path, show):
    for seed, value in ((1, 0.5), (2, 0.6)):
        add(tmp_path, value, seed=seed)
    add(tmp_path, math.nan, method="bad")
    text = show("--format", "csv")[1]
    bad, coop = csv.DictReader(io.StringIO(text))
    assert (coop["seeds"], coop["values"], coop["n"]) == ("1 2", "50.0 60.0", "2")
    assert (coop["mean"], coop["min"], coop["max"], coop["unit"]) == ("55.0", "50.0", "60.0", "%")
    assert float(coop["std"]) == pytest.approx(50**0.5)
    assert (bad["mean"], bad["std"]) == ("nan", "")
    _, text, err = show("--format", "json")
    bad, coop = json.loads(text, parse_constant=pytest.fail)
    assert (coop["seeds"], coop["values"], coop["set"], coop["protocol_version"]) == (
        [1, 2],
        [50.0, 60.0],
        "test",
        1,
    )
    assert (bad["mean"], bad["values"], bad["n"]) == (None, [None], 1)
    assert "not a finite number" in err
    frame = to_frame(summarise(load_results(tmp_path)))
    assert frame["mean"].tolist()[1] == 55.0


def test_out_is_atomic_and_typed_by_suffix(tmp_path, show, monkeypatch):
    add(tmp_path / "runs", 0.5)
    out = tmp_path / "new" / "folder" / "table.tex"
    status, printed, _ = show("--out", out, root=tmp_path / "runs")
    assert (status, printed) == (0, "")
    assert r"\toprule" in out.read_text()
    assert [path.name for path in out.parent.iterdir()] == ["table.tex"]
    before = out.read_text()

    def stop(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", stop)
    status, _, err = show("--out", out, "--format", "md", root=tmp_path / "runs")
    assert status == 1
    assert "No space left" in err
    assert out.read_text() == before
    assert [path.name for path in out.parent.iterdir()] == ["table.tex"]


def test_out_refuses_a_folder(tmp_path, show):
    add(tmp_path, 0.5)
    status, _, err = show("--out", tmp_path)
    assert status == 1
    assert "is a folder" in err


# ---- check ---------------------------------------------------------------------------------------


def unroll(commands):
    """Return the runs that commands stand for."""
    runs = []
    for command in commands:
        words = shlex.split(command)
        assert words[:3] == ["python", "-m", "mmadapt"]
        choices = dict(word.split("=") for word in words[3:] if word != "-m")
        product = list(itertools.product(*(values.split(",") for values in choices.values())))
        assert ("-m" in words[3:]) == (len(product) > 1)
        runs += [dict(zip(choices, values, strict=True)) for values in product]
    return runs


def test_complete_grid(tmp_path, show):
    for method, seed in itertools.product(("a", "b"), (1, 2)):
        add(tmp_path, method=method, seed=seed)
    assert show("--check") == (0, "complete: 4 runs\n", "")


def test_commands_fill_exactly_the_holes(tmp_path, show):
    grid = set(itertools.product(("a", "b", "c"), ("dtd", "eurosat"), (1, 2, 4), (1, 2, 3)))
    holes = {cell for cell in grid if cell[0] == "b" and cell[1] == "dtd"} | {
        ("a", "eurosat", 4, 3),
        ("c", "dtd", 1, 2),
    }
    for method, data, shots, seed in grid - holes:
        add(tmp_path, method=method, data=data, shots=shots, seed=seed, tag="camp")
    status, out, _ = show("--check")
    comment, *commands = out.splitlines()
    assert status == 1
    assert comment == "# 11 of 54 runs are missing"
    runs = unroll(commands)
    assert sorted((r["method"], r["data"], int(r["shots"]), int(r["seed"])) for r in runs) == sorted(holes)
    assert {(r["tag"], r["protocol"], r["clip"]) for r in runs} == {("camp", "few_shot", "vit_b16")}
    assert len(commands) == 3
    for run in runs:  # running them completes the grid
        run.update(shots=int(run["shots"]), seed=int(run["seed"]))
        add(tmp_path, **run)
    assert show("--check")[0] == 0


def test_a_box_of_holes_is_one_command(tmp_path, show):
    for method, data, shots, seed in itertools.product("ab", ("dtd", "eurosat"), (1, 2), (1, 2)):
        if shots == 1 or seed == 1:
            add(tmp_path, method=method, data=data, shots=shots, seed=seed)
    _, command = show("--check")[1].splitlines()
    where = "tag=main protocol=few_shot clip=vit_b16"
    assert command == f"python -m mmadapt -m {where} data=dtd,eurosat method=a,b shots=2 seed=2"


def test_holes_go_to_the_tag_of_their_method(tmp_path, show):
    add(tmp_path, method="a", tag="one")
    for seed in (1, 2):
        add(tmp_path, method="b", tag="two", seed=seed)
    assert [(run["tag"], run["method"]) for run in unroll(show("--check")[1].splitlines()[1:])] == [
        ("one", "a")
    ]
    elsewhere = unroll(show("--check", "--data", "eurosat", "--methods", "b")[1].splitlines()[1:])
    assert {run["tag"] for run in elsewhere} == {"two"}
    (tmp_path / "two/few_shot/vit_b16/dtd/b/1shot/seed2/result.json").unlink()
    add(tmp_path, method="a", tag="one", seed=2)
    assert [(run["tag"], run["method"]) for run in unroll(show("--check")[1].splitlines()[1:])] == [
        ("two", "b")
    ]


def test_an_empty_grid_is_not_complete(tmp_path, show):
    add(tmp_path, method="zero_shot", shots=0)
    status, out, err = show("--check", "--protocol", "few_shots")
    assert (status, out, "did you mean 'few_shot'?" in err) == (1, "", True)
    assert show("--check", "--shots", "4")[0] == 1


def test_requested_grid(tmp_path, show):
    add(tmp_path, method="coop")
    asked = ("--check", "--methods", "coop,maple", "--data", "dtd", "--shots", "1", "--seeds", "1,2")
    status, out, _ = show(*asked)
    assert status == 1
    assert {(r["method"], r["seed"]) for r in unroll(out.splitlines()[1:])} == {
        ("coop", "2"),
        ("maple", "1"),
        ("maple", "2"),
    }
    assert show("--check", "--seeds", "1")[0] == 0


def test_zero_shots_are_expected_only_where_seen(tmp_path, show):
    add(tmp_path, method="zero_shot", shots=0)
    add(tmp_path, method="coop", shots=1)
    assert show("--check") == (0, "complete: 2 runs\n", "")


def test_failures_are_listed(tmp_path, show):
    add(tmp_path, method="coop")
    path = fail(tmp_path, "RuntimeError: out of memory\nmore", method="maple", tag="deep/tag")
    status, out, _ = show("--check")
    assert status == 1
    assert f"# failed: {path}: RuntimeError: out of memory\n" in out
    assert [(run["method"], run["tag"]) for run in unroll(out.splitlines()[2:])] == [("maple", "deep/tag")]
    status, out, err = show()
    assert status == 0
    assert "runs failed: 1 (--check lists them)" in err
    assert fail(tmp_path / "b", "boom").exists()
    assert show("--check", root=tmp_path / "b")[0] == 1


# ---- figures -------------------------------------------------------------------------------------


def series(figure):
    return {
        container.get_label(): (list(container.lines[0].get_xdata()), list(container.lines[0].get_ydata()))
        for container in figure.axes[0].containers
    }


def test_figure_shows_the_table(tmp_path):
    from mmadapt.collect.plot import draw

    for shots, seed in itertools.product((1, 2, 4), (1, 2)):
        add(tmp_path, 0.4, method="zero_shot", shots=shots, seed=seed)
        add(tmp_path, 0.5 + shots / 100 + seed / 100, shots=shots, seed=seed)
        if shots != 2:
            add(tmp_path, 0.7, method="gap", shots=shots, seed=seed)
    (table,) = summarise(load_results(tmp_path))
    figure = draw(table)
    axes = figure.axes[0]
    drawn = series(figure)
    assert drawn["coop"] == ([1, 2, 4], pytest.approx([52.5, 53.5, 55.5]))
    assert drawn["gap"][1] == pytest.approx([70.0, math.nan, 70.0], nan_ok=True)
    assert "zero_shot" not in drawn
    (line,) = [line for line in axes.lines if line.get_label() == "zero_shot"]
    assert line.get_ydata()[0] == pytest.approx(40.0)
    assert line.get_linestyle() == "--"
    bars = next(c for c in axes.containers if c.get_label() == "coop").lines[2][0].get_segments()
    assert bars[0][:, 1] == pytest.approx([52.5 - 0.5**0.5, 52.5 + 0.5**0.5])
    assert axes.get_xticks().tolist() == [1, 2, 4]
    assert axes.get_xscale() == "log"
    assert "%" in axes.get_ylabel()
    assert "shots" in axes.get_xlabel()
    assert "n = 2 seeds" in axes.get_title(loc="left")
    assert "points missing: 1" in axes.get_title(loc="left")
    assert {text.get_text() for text in axes.texts} == {"coop", "gap", "zero_shot"}


def test_zero_shot_that_varies_is_a_series(tmp_path):
    from mmadapt.collect.plot import draw

    add(tmp_path, 0.4, method="zero_shot", shots=0)
    add(tmp_path, 0.5, method="zero_shot", shots=1)
    figure = draw(summarise(load_results(tmp_path))[0])
    assert series(figure)["zero_shot"] == ([0, 1], pytest.approx([40.0, 50.0]))
    assert figure.axes[0].get_xscale() == "symlog"


def test_zero_shot_at_0_shots_is_a_line_and_needs_no_tick(tmp_path):
    from mmadapt.collect.plot import draw

    add(tmp_path, 0.4, method="zero_shot", shots=0)
    for shots, seed in itertools.product((1, 2), (1, 2)):
        add(tmp_path, 0.5, shots=shots, seed=seed)
    axes = draw(summarise(load_results(tmp_path))[0]).axes[0]
    assert axes.get_xticks().tolist() == [1, 2]
    assert [line.get_ydata()[0] for line in axes.lines if line.get_label() == "zero_shot"] == [
        pytest.approx(40.0)
    ]
    assert "points" not in axes.get_title(loc="left")
    add(tmp_path, math.nan, shots=2, seed=1)
    axes = draw(summarise(load_results(tmp_path))[0]).axes[0]
    assert "points missing: 1" in axes.get_title(loc="left")


def test_names_at_line_ends_do_not_overlap(tmp_path):
    from mmadapt.collect.plot import draw

    for index in range(8):
        add(tmp_path, 0.5 + index / 10_000, method=f"m{index}")
    add(tmp_path, 0.9, method="top")
    figure = draw(summarise(load_results(tmp_path))[0])
    figure.draw_without_rendering()
    boxes = sorted((text.get_window_extent() for text in figure.axes[0].texts), key=lambda box: box.y0)
    assert all(upper.y0 > lower.y0 + 0.7 * lower.height for lower, upper in itertools.pairwise(boxes))
    heights = {text.get_text(): text.xy[1] for text in figure.axes[0].texts}
    assert [heights[f"m{index}"] for index in range(8)] == sorted(heights[f"m{index}"] for index in range(8))


def test_figure_files(tmp_path, show):
    for data in ("dtd", "eurosat"):
        add(tmp_path / "runs", 0.5, data=data)
    add(tmp_path / "runs", 0.5, data="dtd", method="partial")
    status, _, _ = show("--plot", tmp_path / "a", "--view", "methods-by-data", root=tmp_path / "runs")
    assert status == 0
    names = {
        f"few_shot-vit_b16-{data}-test-top1.{end}"
        for data in ("dtd", "eurosat", "average")
        for end in ("png", "svg")
    }
    assert {path.name for path in (tmp_path / "a").iterdir()} == names
    show("--plot", tmp_path / "b", root=tmp_path / "runs")
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    show("--plot", tmp_path / "c", "--plot-formats", "pdf", "--data", "dtd", root=tmp_path / "runs")
    assert [path.suffix for path in (tmp_path / "c").iterdir()] == [".pdf"]


# ---- errors and cost -----------------------------------------------------------------------------


def test_nothing_found(tmp_path, show):
    status, _, err = show()
    assert status == 1
    assert str(tmp_path) in err
    assert "python -m mmadapt" in err
    assert show(root=tmp_path / "nowhere")[0] == 1
    with pytest.raises(UserError, match=r"No result\.json below"):
        load_results(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": 99}', "\udcff"])
def test_unreadable_result_is_named(tmp_path, show, content):
    path = add(tmp_path) / "result.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    status, _, err = show()
    assert status == 1
    assert str(path) in err
    assert "Traceback" not in err


def test_a_file_that_cannot_be_opened_is_named(tmp_path, show):
    path = add(tmp_path) / "result.json"
    path.unlink()
    path.symlink_to(path)
    status, _, err = show()
    assert (status, f"Cannot read {path}" in err) == (1, True)


@pytest.mark.parametrize(("field", "value"), [("shots", "16"), ("method", ["coop"]), ("seed", None)])
def test_wrong_type_is_named(tmp_path, show, field, value):
    path = add(tmp_path) / "result.json"
    raw = json.loads(path.read_text())
    raw["key"][field] = value
    path.write_text(json.dumps(raw))
    status, _, err = show()
    assert (status, str(path) in err) == (1, True)


def test_unknown_names_get_a_hint(tmp_path, show):
    add(tmp_path, method="tip_adapter")
    status, _, err = show("--methods", "tip_adaptor")
    assert status == 1
    assert "No result has method 'tip_adaptor' (did you mean 'tip_adapter'?). Found: tip_adapter." in err
    status, _, err = show("--shots", "32")
    assert (status, "Found: 1." in err) == (1, True)


@pytest.mark.parametrize(
    "arguments", [["--shots", "x"], ["--plot-formats", "gif"], ["--metric", "f1"], ["--vie", "x"]]
)
def test_usage_errors_exit_with_2(arguments):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2


def test_no_heavy_imports(tmp_path):
    add(tmp_path, 0.5)
    code = (
        "import sys; from mmadapt.collect.__main__ import main; status = main(sys.argv[1:]);"
        "heavy = {'torch', 'lightning', 'open_clip', 'pandas', 'matplotlib', 'numpy'} & set(sys.modules);"
        "sys.exit(f'{status} {heavy}' if status or heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    module = [sys.executable, "-m", "mmadapt.collect", str(tmp_path)]
    assert "50.00" in subprocess.run(module, capture_output=True, text=True, check=True).stdout


def test_figures_do_not_import_torch(tmp_path):
    add(tmp_path, 0.5)
    code = (
        "import sys; from mmadapt.collect.__main__ import main; main(sys.argv[1:]);"
        "sys.exit(str({'torch', 'pandas', 'matplotlib.pyplot'} & set(sys.modules) or '') or 0)"
    )
    command = [sys.executable, "-c", code, str(tmp_path), "--plot", str(tmp_path / "figures")]
    assert subprocess.run(command, capture_output=True, text=True, check=False).returncode == 0


def test_check_types_data_and_backbone_as_the_finished_runs_did():
    from mmadapt.collect.check import commands
    from mmadapt.results import RunKey

    spellings = {
        ("data", "toys"): ("folder", ("data.root=/my images/toys",)),
        ("clip", "vit_b32"): ("vit_b32", ("clip.pretrained=null",)),
    }
    missing = [RunKey("main", "few_shot", "vit_b32", "toys", "coop", 4, seed) for seed in (1, 2)]
    assert commands(missing, spellings) == [
        "python -m mmadapt -m tag=main protocol=few_shot clip=vit_b32 clip.pretrained=null "
        "'data.root=/my images/toys' data=folder method=coop shots=4 seed=1,2"
    ]
