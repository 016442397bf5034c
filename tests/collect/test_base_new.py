"""Base and new classes and H."""

from dataclasses import replace

import pytest
from tests.support.result_trees import add, rows, score

SEEDS = {1: (0.80, 0.60), 2: (0.90, 0.50)}


def pair(base, new, classifier="names", **more):
    return {"base": score(base, **more), "new": replace(score(new, **more), classifier=classifier)}


def add_pair(root, base, new, classifier="names", **more):
    return add(root, scores=pair(base, new, classifier), **{"protocol": "base_to_new", "shots": 16, **more})


def test_golden_table(tmp_path, show):
    for seed, (base, new) in SEEDS.items():
        add_pair(tmp_path, base, new, seed=seed)
    add_pair(tmp_path, 0.70, 0.70, "text_only", method="tip_adapter", tuned={"beta": 1, "alpha": 2})
    # H: 2 · 80 · 60 / 140 = 68.571 and 2 · 90 · 50 / 140 = 64.286
    assert show() == (
        0,
        "Top-1 accuracy (%, ↑) on dtd, 16 shots; scored sets: base, new; protocol: base_to_new, version 1; "
        "CLIP: vit_b16; mean ± sample standard deviation (ddof = 1) over n = 2 seeds, or over (n) where given; "
        "H = 2 · base · new / (base + new) of each seed; classifier: own (base), names (new), text_only (new); "
        "selection: last; tuned on validation images: tip_adapter (alpha, beta).\n"
        "\n"
        "| top1 (%) ↑  |             base |            new |              H |\n"
        "| ----------- | ---------------: | -------------: | -------------: |\n"
        "| coop        | **85.00 ± 7.07** |   55.00 ± 7.07 |   66.43 ± 3.03 |\n"
        "| tip_adapter |        70.00 (1) | **70.00 (1)**§ | **70.00 (1)**§ |\n"
        "\n"
        "- § classified by the text side alone (text_only): tip_adapter (new).\n",
        "",
    )


def test_average_h_is_of_the_averages(tmp_path, show):
    for seed in (1, 2):
        add_pair(tmp_path, 0.9, 0.1, data="dtd", seed=seed)
        add_pair(tmp_path, 0.1 * seed, 0.9, data="eurosat", seed=seed)
    out = show()[1]
    assert "base and new are averaged over the data sets per seed, H is of these averages" in out
    # per seed: base 50 and 55, new 50; H 50 and 52.381. The mean of the data sets' H would be 18.0 and 25.4.
    assert rows(out, 2)["coop"] == ["52.50 ± 3.54", "50.00 ± 0.00", "51.19 ± 1.68"]
    assert rows(out, 0)["coop"][2] == "18.00 ± 0.00"
    assert rows(show("--view", "cost")[1])["coop"][-1] == "51.19 ± 1.68"  # the same number


def test_average_needs_every_data_set_and_seed(tmp_path, show):
    for data in ("dtd", "eurosat"):
        add_pair(tmp_path, 0.8, 0.6, data=data, method="whole")
    add_pair(tmp_path, 0.8, 0.6, data="dtd")
    add_pair(tmp_path, 0.8, 0.6, data="dtd", method="seeds")
    add_pair(tmp_path, 0.8, 0.6, data="dtd", method="seeds", seed=2)
    add_pair(tmp_path, 0.8, 0.6, data="eurosat", method="seeds")
    out = show()[1]
    assert rows(out, 2)["coop"] == rows(out, 2)["seeds"] == ["–", "–", "–"]
    assert "- No average for coop at 16 shots: eurosat is missing." in out
    assert "- No average for seeds at 16 shots: eurosat lacks seed 2." in out
    assert rows(out, 1)["coop"] == ["–", "–", "–"]


def test_h_needs_both_sets_of_a_seed(tmp_path, show):
    add_pair(tmp_path, 0.8, 0.6, seed=1)
    add(tmp_path, scores={"base": score(0.9)}, protocol="base_to_new", shots=16, seed=2)
    assert rows(show()[1])["coop"] == ["85.00 ± 7.07", "60.00 (1)", "68.57 (1)"]


def test_no_h_of_calibration_errors_or_of_one_set(tmp_path, show):
    add(tmp_path, scores=pair(0.8, 0.6, ece=0.05), protocol="base_to_new")
    out = show("--metric", "ece")[1]
    assert next(iter(rows(out).values())) == ["base", "new"]
    assert "H =" not in out
    assert next(iter(rows(show("--set", "new")[1]).values())) == ["new"]


def test_shots_have_tables_of_their_own_and_zero_shot_joins_them(tmp_path, show):
    for shots in (1, 16):
        add_pair(tmp_path, 0.7 + shots / 100, 0.6, shots=shots)
    add_pair(tmp_path, 0.5, 0.6, method="zero_shot", shots=0, rule="none")
    out = show()[1]
    assert [rows(out, i)["coop"][0] for i in (0, 1)] == ["**71.00**", "**86.00**"]
    assert [rows(out, i)["zero_shot"][0] for i in (0, 1)] == ["50.00", "50.00"]
    assert out.count("- zero_shot: 0 shots.") == 2
    assert "selection: last (coop), none (zero_shot)" in out
    table = show("--format", "csv")[1]
    assert table.count(",zero_shot,0,") == 3  # base, new and H once, though they stand in two tables


def test_marks(tmp_path, show):
    add_pair(tmp_path, 0.8, 0.6, dirty=True, seed=1, config={"method": {"lr": 1}})
    add_pair(tmp_path, 0.8, 0.6, seed=2, config={"method": {"lr": 2}})
    status, _, err = show()
    assert (status, "(method.lr: 1 → 2)" in err) == (1, True)
    out = show("--allow-mixed")[1]
    assert rows(out)["coop"] == [r"80.00 ± 0.00\*†", r"60.00 ± 0.00\*†", r"68.57 ± 0.00\*†"]
    assert out.count("- † coop, dtd, 16 shots: mixed configurations (method.lr: 1 → 2).") == 1


def test_a_nan_is_named_with_its_set(tmp_path, show):
    add_pair(tmp_path, float("nan"), 0.6)
    out = show()[1]
    assert rows(out)["coop"] == ["nan", "60.00", "nan"]
    assert "- coop, dtd, 16 shots: top1 (base) of seed 1 is not a finite number" in out


def test_different_images_are_noted_by_set(tmp_path, show):
    add_pair(tmp_path, 0.8, 0.6)
    other = pair(0.8, 0.6)
    add(
        tmp_path,
        scores={**other, "new": replace(other["new"], total=99)},
        method="b",
        protocol="base_to_new",
        shots=16,
    )
    assert (
        "- dtd (new): the runs did not score the same images: 99 in 4 classes (b); 100 in 4 classes (coop)."
        in show()[1]
    )


def test_check_finds_the_hole(tmp_path, show):
    for data, seed in (("dtd", 1), ("dtd", 2), ("eurosat", 1)):
        add_pair(tmp_path, 0.8, 0.6, data=data, seed=seed)
    status, out, _ = show("--check")
    assert status == 1
    assert out.splitlines()[1] == (
        "python -m mmadapt tag=main protocol=base_to_new clip=vit_b16 data=eurosat method=coop shots=16 seed=2"
    )


@pytest.mark.parametrize("form", ["md", "csv", "json", "latex"])
def test_every_format_has_h(tmp_path, show, form):
    add_pair(tmp_path, 0.8, 0.6)
    status, out, _ = show("--format", form)
    assert (status, "68.57" in out) == (0, True)
