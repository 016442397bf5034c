"""A source data set and its targets; which view belongs to which protocol."""

import csv
import io
from dataclasses import replace

import pytest
from tests.support.result_trees import add, captions, rows, score

TARGETS = {
    "cross_dataset": ("caltech101", "dtd"),
    "domain_generalization": ("imagenetv2", "imagenet_sketch", "imagenet_a"),
}


def transfer(root, source, targets, protocol="cross_dataset", classifier="names", **more):
    """Add a run trained on imagenet with these accuracies."""
    scores = {"imagenet": replace(score(source), data="imagenet")}
    for name, top1 in targets.items():
        scores[name] = replace(score(top1), data=name, classifier=classifier)
    return add(root, scores=scores, **{"protocol": protocol, "data": "imagenet", "shots": 16, **more})


def test_golden_table(tmp_path, show):
    transfer(tmp_path, 0.70, {"caltech101": 0.90, "dtd": 0.40}, seed=1)
    transfer(tmp_path, 0.72, {"caltech101": 0.94, "dtd": 0.42}, seed=2)
    transfer(
        tmp_path, 0.65, {"caltech101": 0.91, "dtd": 0.39}, "cross_dataset", "sliced", method="tip_adapter"
    )
    assert show() == (
        0,
        "Top-1 accuracy (%, ↑) trained on imagenet, tested on imagenet, caltech101, dtd, 16 shots; "
        "scored sets: source, targets; protocol: cross_dataset, version 1; CLIP: vit_b16; mean ± sample standard "
        "deviation (ddof = 1) over n = 2 seeds, or over (n) where given; Average: mean over the 2 targets, without "
        "the source; classifier: own (imagenet), names (caltech101, dtd), sliced (caltech101, dtd); selection: last.\n"
        "\n"
        "| top1 (%) ↑  | imagenet (source) |       caltech101 |              dtd |          Average |\n"
        "| ----------- | ----------------: | ---------------: | ---------------: | ---------------: |\n"
        "| coop        |  **71.00 ± 1.41** | **92.00 ± 2.83** | **41.00 ± 1.41** | **66.50 ± 2.12** |\n"
        "| tip_adapter |         65.00 (1) |       91.00 (1)‡ |       39.00 (1)‡ |       65.00 (1)‡ |\n"
        "\n"
        "- ‡ classified by the trained logits of the classes that occur (sliced): tip_adapter (caltech101, dtd).\n",
        "",
    )


def test_no_average_over_a_part_of_the_targets(tmp_path, show):
    transfer(tmp_path, 0.7, {"imagenetv2": 0.6, "imagenet_a": 0.5}, "domain_generalization")
    transfer(tmp_path, 0.7, {"imagenetv2": 0.9}, "domain_generalization", method="b")
    out = show()[1]
    assert rows(out)["b"] == ["**70.00**", "**90.00**", "–", "–"]
    assert rows(out)["coop"] == ["**70.00**", "60.00", "50.00", "55.00"]
    assert "- No average for b at 16 shots: imagenet_a is missing." in out
    only = rows(show("--set", "imagenetv2")[1])
    assert (next(iter(only.values())), only["b"]) == (["imagenetv2"], ["**90.00**"])


def test_no_average_if_a_target_lacks_a_seed(tmp_path, show):
    transfer(tmp_path, 0.7, {"caltech101": 0.6, "dtd": 0.5}, seed=1)
    transfer(tmp_path, 0.7, {"caltech101": 0.6}, seed=2)
    out = show()[1]
    assert rows(out)["coop"] == ["70.00 ± 0.00", "60.00 ± 0.00", "50.00 (1)", "–"]
    assert "- No average for coop at 16 shots: dtd lacks seed 2." in out


def test_one_target_has_no_average(tmp_path, show):
    transfer(tmp_path, 0.7, {"dtd": 0.5})
    assert next(iter(rows(show()[1]).values())) == ["imagenet (source)", "dtd"]


def test_sources_and_shots_have_tables_of_their_own(tmp_path, show):
    transfer(tmp_path, 0.7, {"dtd": 0.5})
    transfer(tmp_path, 0.6, {"dtd": 0.4}, shots=4)
    toys = {name: replace(score(top1), data=name) for name, top1 in (("shapes", 0.9), ("shapes_form", 0.8))}
    add(tmp_path, scores=toys, protocol="cross_dataset", data="shapes", shots=16)
    out = show()[1]
    assert [rows(out, i)["coop"] for i in range(3)] == [
        ["60.00", "40.00"],
        ["70.00", "50.00"],
        ["90.00", "80.00"],
    ]
    assert "trained on shapes, tested on shapes, shapes_form, 16 shots" in captions(out)[2]


def test_marks_and_mixed_configurations(tmp_path, show):
    transfer(tmp_path, 0.7, {"dtd": 0.5, "eurosat": 0.5}, seed=1, config={"method": {"lr": 1}})
    transfer(tmp_path, 0.7, {"dtd": 0.5, "eurosat": 0.5}, seed=2, config={"method": {"lr": 2}}, dirty=True)
    assert show()[0] == 1
    out = show("--allow-mixed")[1]
    assert rows(out)["coop"] == [r"70.00 ± 0.00\*†"] + [r"50.00 ± 0.00\*†"] * 3
    assert "- † coop, dtd, eurosat, imagenet, 16 shots: mixed configurations (method.lr: 1 → 2)." in out


def test_records_name_the_target(tmp_path, show):
    transfer(tmp_path, 0.7, {"caltech101": 0.9, "dtd": 0.5})
    found = list(csv.DictReader(io.StringIO(show("--format", "csv")[1])))
    assert [(row["set"], row["data"], row["mean"]) for row in found] == [
        ("imagenet", "imagenet", "70.0"),
        ("caltech101", "caltech101", "90.0"),
        ("dtd", "dtd", "50.0"),
        ("Average", "Average", "70.0"),
    ]
    assert [row["classifiers"] for row in found] == ["own", "names", "names", "names"]


def add_all(root):
    for protocol, targets in TARGETS.items():
        transfer(root, 0.7, dict.fromkeys(targets, 0.5), protocol)
    add(root, scores={"base": score(0.8), "new": score(0.6)}, protocol="base_to_new", shots=16)
    add(root, 0.6, shots=16)


def test_each_protocol_gets_its_view(tmp_path, show):
    add_all(tmp_path)
    status, out, _ = show()
    heads = [next(iter(rows(out, i).values())) for i in range(4)]
    assert status == 0
    assert heads == [
        ["base", "new", "H"],
        ["imagenet (source)", "caltech101", "dtd", "Average"],
        ["imagenet (source)", "imagenetv2", "imagenet_sketch", "imagenet_a", "Average"],
        ["16 shots"],
    ]


@pytest.mark.parametrize(
    ("view", "tables"),
    [("base-new", 1), ("shifts", 1), ("cross-dataset", 1), ("cost", 4), ("methods-by-data", 10)],
)
def test_a_view_shows_what_suits_it(tmp_path, show, view, tables):
    add_all(tmp_path)
    status, out, _ = show("--view", view)
    assert status == 0
    assert sum(block.startswith("|") for block in out.split("\n\n")) == tables


def test_a_view_that_suits_nothing(tmp_path, show):
    add(tmp_path, 0.5)
    status, out, err = show("--view", "base-new")
    assert (status, out) == (1, "")
    assert (
        "No result suits the view 'base-new': the protocols found are few_shot, the scored sets test." in err
    )
