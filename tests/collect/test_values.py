"""Means over seeds and data sets, what is bold, and the order of names."""

import itertools
import math
import re

import pytest
from tests.support.result_trees import add, captions, rows, score

from mmadapt.collect.results.order import sort_data


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
