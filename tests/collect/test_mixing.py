"""What does not belong in one table is refused or marked."""

import math

from tests.support.result_trees import add, rows, score

from mmadapt.collect import load_results, summarise, to_frame
from mmadapt.collect.results.consistency import comparable
from mmadapt.config.identity import relevant


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
    assert "extra: (not set) → None" in err


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


def test_variants_under_tags_of_their_own_are_rows_of_one_table(tmp_path, show):
    for tag, top1 in (("ablation/learned", 0.6), ("ablation/fixed", 0.5)):
        for seed in (1, 2):
            add(tmp_path, top1, tag=tag, method="xmadapter", seed=seed, config={"method": {"fusion": tag}})
    status, _, error = show()
    assert status == 1
    assert "xmadapter" in error
    status, out, _ = show("--by-tag")
    assert status == 0
    table = rows(out)
    assert table["xmadapter [ablation/learned]"] == ["**60.00 ± 0.00**"]
    assert table["xmadapter [ablation/fixed]"] == ["50.00 ± 0.00"]
