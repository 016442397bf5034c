"""Paired differences of two methods and their intervals."""

import json
from dataclasses import replace

import pytest
from scipy import stats
from tests.support.result_trees import add, rows, score

from mmadapt.collect.tables.compare import interval, quantile


@pytest.mark.parametrize("df", [*range(1, 13), 30, 101])
def test_quantile_is_students(df):
    assert quantile(df) == pytest.approx(stats.t.ppf(0.975, df), rel=1e-9 if df <= 10 else 3e-6)


def test_interval_is_that_of_a_paired_t_test():
    one, other = [61.2, 60.1, 63.5, 62.0], [60.0, 60.4, 61.1, 61.0]
    differences = [a - b for a, b in zip(one, other, strict=True)]
    expected = stats.ttest_rel(one, other).confidence_interval(0.95)
    mean, half = interval(differences)
    assert mean == pytest.approx(sum(differences) / 4)
    assert (mean - half, mean + half) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_golden_comparison(tmp_path, show):
    for seed, (one, other) in enumerate(((0.60, 0.58), (0.62, 0.61), (0.66, 0.63)), start=1):
        for data, more in (("dtd", 0.0), ("eurosat", 0.1)):
            add(tmp_path, one + more, method="coop", data=data, seed=seed, shots=4)
            add(tmp_path, other, method="ape", data=data, seed=seed, shots=4)
    add(tmp_path, 0.9, method="coop", shots=16)
    add(tmp_path, 0.8, method="ape", shots=16)
    add(tmp_path, 0.1, method="maple", shots=16)
    # dtd: 2, 1, 3: mean 2, s 1, t(0.975, 2) = 4.3027, half width 2.4841; eurosat 10 more; their mean 7.
    assert show("--compare", "coop", "ape") == (
        0,
        "Top-1 accuracy: coop − ape in percentage points, positive where coop is better; scored: test; protocol: "
        "few_shot, version 1; CLIP: vit_b16; mean difference [95 % interval of Student's t, n − 1 degrees of freedom] "
        "(n) over the n seeds that both have, no interval for n = 1; selection: last; tuned on validation images: "
        "none. Average: mean per seed over all of them, then "
        "paired over seeds.\n"
        "\n"
        "| data    |                  4 shots |   16 shots |\n"
        "| ------- | -----------------------: | ---------: |\n"
        "| dtd     |  +2.00 [−0.48, 4.48] (3) | +10.00 (1) |\n"
        "| eurosat | +12.00 [9.52, 14.48] (3) |          – |\n"
        "| Average |   +7.00 [4.52, 9.48] (3) |          – |\n"
        "\n"
        "- No average for coop at 16 shots: eurosat is missing.\n"
        "- No average for ape at 16 shots: eurosat is missing.\n",
        "",
    )


def test_only_seeds_that_both_have(tmp_path, show):
    for seed, value in ((1, 0.5), (2, 0.6), (3, 0.1)):
        add(tmp_path, value, method="a", seed=seed)
    for seed, value in ((2, 0.5), (1, 0.3), (4, 0.9)):
        add(tmp_path, value, method="b", seed=seed)
    (record,) = json.loads(show("--compare", "a", "b", "--format", "json")[1])
    assert (record["seeds"], record["differences"], record["n"]) == ([1, 2], [20.0, 10.0], 2)
    assert record["difference"] == 15.0
    expected = stats.ttest_1samp([20.0, 10.0], 0).confidence_interval(0.95)
    assert (record["low"], record["high"]) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert (record["method"], record["minus"], record["set"], record["shots"]) == ("a", "b", "test", 1)


def test_no_interval_of_one_seed(tmp_path, show):
    add(tmp_path, 0.5, method="a")
    add(tmp_path, 0.6, method="b")
    assert rows(show("--compare", "a", "b")[1])["dtd"] == ["−10.00 (1)"]
    (record,) = json.loads(show("--compare", "a", "b", "--format", "json")[1])
    assert (record["low"], record["high"]) == (None, None)


def test_base_new_and_targets(tmp_path, show):
    for method, base in (("a", 0.8), ("b", 0.7)):
        new = replace(score(0.6), classifier="text_only" if method == "b" else "names")
        add(
            tmp_path,
            scores={"base": score(base), "new": new},
            method=method,
            protocol="base_to_new",
            shots=16,
        )
        scores = {"imagenet": score(base), "caltech101": score(0.9), "dtd": score(base - 0.3)}
        add(tmp_path, scores=scores, method=method, protocol="cross_dataset", data="imagenet", shots=16)
    out = show("--compare", "a", "b")[1]
    assert rows(out, 0)["dtd"] == ["+10.00 (1)", "+0.00 (1)§", "+3.96 (1)§"]  # H 68.571 and 64.615
    found = rows(out, 1)
    assert (found["imagenet (source)"], found["caltech101"]) == (["+10.00 (1)"], ["+0.00 (1)"])
    assert (found["dtd"], found["Average"]) == (["+10.00 (1)"], ["+5.00 (1)"])


def test_less_is_better_for_some_metrics(tmp_path, show):
    add(tmp_path, method="a", scores={"test": score(0.9, nll=0.5)})
    add(tmp_path, method="b", scores={"test": score(0.9, nll=0.7)})
    out = show("--compare", "a", "b", "--metric", "nll")[1]
    assert "a − b in nats, positive where b is better" in out
    assert rows(out)["dtd"] == ["−0.200 (1)"]


def test_zero_shot_stands_beside_all_shots(tmp_path, show):
    add(tmp_path, 0.4, method="zero_shot", shots=0)
    for shots in (1, 4):
        add(tmp_path, 0.5 + shots / 100, shots=shots)
    found = rows(show("--compare", "coop", "zero_shot")[1])
    assert (found["data"], found["dtd"]) == (["1 shot", "4 shots"], ["+11.00 (1)", "+14.00 (1)"])


def test_mixed_configurations_are_refused_here_too(tmp_path, show):
    for seed in (1, 2):
        add(tmp_path, method="a", seed=seed, config={"method": {"lr": seed}})
        add(tmp_path, method="b", seed=seed)
    assert show("--compare", "a", "b")[0] == 1
    out = show("--compare", "a", "b", "--allow-mixed")[1]
    assert rows(out)["dtd"] == ["+0.00 [0.00, 0.00] (2)†"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a", "a"), "needs two methods"),
        (("a", "bb"), "did you mean 'b'?"),
        (("a", "c"), "no cell with a seed in common"),
    ],
)
def test_what_cannot_be_compared(tmp_path, show, names, message):
    add(tmp_path, method="a")
    add(tmp_path, method="b")
    add(tmp_path, method="c", seed=2)
    status, out, err = show("--compare", *names)
    assert (status, out, message in err) == (1, "", True)
    assert show("--compare", "a", "b", "--view", "cost")[0] == 1
