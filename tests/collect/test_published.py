"""The papers' numbers, alone and beside ours."""

import csv
import json
from dataclasses import replace
from importlib import resources

import pytest
from tests.support import ROOT
from tests.support.result_trees import add, rows, score

from mmadapt.collect.results.load import Filter
from mmadapt.collect.tables.against import COVERED, PAPER_DATA
from mmadapt.collect.tables.published import backbone, published

PAPERS = resources.files("mmadapt.collect.tables") / "papers"


def raw(name):
    return list(csv.DictReader((PAPERS / name).read_text(encoding="utf-8").splitlines()))


def test_files_lie_in_the_package():
    names = {"base_to_new", "cross_dataset", "domain_generalization", "few_shot", "mm_adapter_repository"}
    assert {file.name for file in PAPERS.iterdir() if file.name.endswith(".csv")} == {
        f"{n}.csv" for n in names
    }
    for name in names:
        assert {"method", "accuracy", "source", "verified"} <= raw(f"{name}.csv")[0].keys()


def test_every_row_is_read_as_it_stands():
    lines = [line for file in sorted(PAPERS.iterdir(), key=lambda file: file.name) for line in raw(file.name)]
    rows = [row for row in published() if not row.computed]
    assert len(rows) == len(lines) == 1174
    for line, row in zip(lines, rows, strict=True):
        assert (row.accuracy, row.source) == (float(line["accuracy"]), line["source"])
        assert row.verified == (line["verified"] == "read")
        assert row.comparable == ("base:new" not in line["source"] or "1:1" in line["source"])


def test_names_of_backbones_are_those_of_our_configs():
    ours = {file.stem for file in (ROOT / "conf/clip").glob("*.yaml")}
    theirs = {backbone(line["backbone"]) for line in raw("few_shot.csv")}
    assert {"vit_b16", "vit_b32", "rn50", "rn101", "vit_l14"} <= ours & theirs
    assert theirs - ours == {"rn50x16"}


def test_data_sets_of_averages_are_in_the_files():
    few = {line["dataset"] for line in raw("few_shot.csv")} - {"average"}
    cross = {line["dataset"] for line in raw("cross_dataset.csv")} - {"average", "imagenet"}
    shifts = {line["dataset"] for line in raw("domain_generalization.csv")} - {"average", "imagenet"}
    assert (few, cross, shifts) == (PAPER_DATA, COVERED["cross_dataset"], COVERED["domain_generalization"])


def test_h_is_computed_from_one_source():
    (row,) = [row for row in published(Filter(method=("comma",))) if row.scored == "H"]
    assert (row.accuracy, row.verified) == (round(2 * 82.42 * 75.87 / (82.42 + 75.87), 2), True)
    (zero,) = [row for row in published(Filter(method=("zero_shot",), data=("dtd",))) if row.scored == "H"]
    assert (zero.accuracy, zero.verified) == (56.37, False)


def test_golden_comparison(tmp_path, show):
    for seed, base in ((1, 0.80), (2, 0.82)):
        scores = {"base": score(base), "new": replace(score(0.40), classifier="names")}
        add(tmp_path, scores=scores, seed=seed, protocol="base_to_new", shots=16)
    found = [row for row in published(Filter(protocol=("base_to_new",))) if not row.computed]
    status, out, err = show("--against", "published", "--set", "base,new")
    assert (status, err) == (0, "")
    assert out.split("\n\n", 2)[2] == (
        "Top-1 accuracy (%) beside published numbers, difference ours − published in percentage points; protocol: "
        "base_to_new, version 1; CLIP: vit_b16; ours: mean ± sample standard deviation (ddof = 1) over n = 2 seeds; "
        "selection: last; tuned on validation images: none.\n"
        "\n"
        "| method | data | shots | set  | source                                   |     ours (%) | published (%) |"
        " difference |\n"
        "| ------ | ---- | ----- | ---- | ---------------------------------------- | -----------: | ------------: |"
        " ---------: |\n"
        "| coop   | dtd  | 16    | base | published base-to-new table, from memory | 81.00 ± 1.41 |        79.44† |"
        "      +1.56 |\n"
        "| coop   | dtd  | 16    | new  | published base-to-new table, from memory | 40.00 ± 0.00 |        41.18† |"
        "      −1.18 |\n"
        "\n"
        "- † not verified: quoted from memory, not read in the source.\n"
        f"- {len([row for row in found if row.scored in ('base', 'new')]) - 2} published rows without a run of ours.\n"
    )


def test_several_sources_are_several_rows(tmp_path, show):
    add(tmp_path, 0.61, method="clip_adapter", data="imagenet", clip="rn50", shots=16)
    lines = [line for line in raw("few_shot.csv") if (line["method"], line["dataset"], line["backbone"], line["shots"])
             == ("clip_adapter", "imagenet", "RN50", "16")]  # fmt: skip
    assert len(lines) == 3
    found = json.loads(show("--against", "published", "--format", "json")[1])
    assert [row["source"] for row in found] == [line["source"] for line in lines]
    for row, line in zip(found, lines, strict=True):
        assert row["difference"] == pytest.approx(61.0 - float(line["accuracy"]))
        assert (row["published"], row["mean"], row["n"]) == (float(line["accuracy"]), 61.0, 1)


@pytest.mark.parametrize("shots", [0, 1])
def test_zero_shot_matches_whatever_shots_it_was_run_with(tmp_path, show, shots):
    add(tmp_path, 0.6, method="zero_shot", data="dtd", clip="rn50", shots=shots, rule="none")
    found = json.loads(show("--against", "published", "--format", "json")[1])
    assert {(row["method"], row["data"], row["shots"]) for row in found} == {("zero_shot", "dtd", 0)}


def test_shots_backbone_and_set_must_match(tmp_path, show):
    for more in ({"shots": 3}, {"clip": "tiny"}, {"data": "shapes"}):
        add(tmp_path, 0.5, **{"method": "tip_adapter", "clip": "rn50", "data": "dtd", "shots": 1, **more})
    status, out, _ = show("--against", "published", "--format", "csv")
    assert (status, out.splitlines()[1:]) == (0, [])
    out = show("--against", "published", "--methods", "tip_adapter", "--clip", "rn50")[1]
    wanted = Filter(method=("tip_adapter",), clip=("rn50",), protocol=("few_shot",))
    assert out.endswith(f"- {len(published(wanted))} published rows without a run of ours.\n")


def test_an_average_over_other_data_sets_is_not_compared(tmp_path, show):
    for data in PAPER_DATA:
        add(tmp_path, 0.7, method="coop", clip="rn50", data=data, shots=16)
    averages = [
        row
        for row in published(Filter(method=("coop",), clip=("rn50",), shots=(16,)))
        if row.data == "Average"
    ]
    assert averages
    found = json.loads(show("--against", "published", "--format", "json")[1])
    assert len([row for row in found if row["data"] == "Average"]) == len(averages)
    add(tmp_path, 0.7, method="coop", clip="rn50", data="shapes", shots=16)
    found = json.loads(show("--against", "published", "--format", "json")[1])
    assert not [row for row in found if row["data"] == "Average"]


def test_targets_are_compared(tmp_path, show):
    targets = {name: replace(score(0.6), data=name) for name in sorted(COVERED["domain_generalization"])}
    scores = {"imagenet": replace(score(0.7), data="imagenet"), **targets}
    add(tmp_path, scores=scores, method="maple", protocol="domain_generalization", data="imagenet", shots=16)
    found = {row["data"]: row for row in json.loads(show("--against", "published", "--format", "json")[1])}
    assert found.keys() == {"imagenet", *targets, "Average"}
    assert (found["Average"]["published"], found["Average"]["difference"]) == (60.27, pytest.approx(-0.27))


def test_another_ratio_of_base_and_new_is_not_compared(tmp_path, show):
    scores = {"base": score(0.7), "new": score(0.7)}
    add(tmp_path, scores=scores, method="mm_adapter", data="fgvc_aircraft", protocol="base_to_new", shots=16)
    found = json.loads(show("--against", "published", "--format", "json")[1])
    assert found
    assert not [row for row in found if any(ratio in row["source"] for ratio in ("3:1", "4:1", "5:1"))]


def test_variants_are_compared_with_their_method(tmp_path, show):
    for tag in ("one", "two"):
        add(tmp_path, 0.6, tag=tag, method="coop", clip="rn50", data="dtd", shots=16)
    found = json.loads(show("--against", "published", "--by-tag", "--methods", "coop", "--format", "json")[1])
    assert {row["method"] for row in found} == {"coop [one]", "coop [two]"}


def test_published_numbers_alone_need_no_runs(tmp_path, show):
    status, out, _ = show("--published", "--methods", "comma", root=tmp_path / "nowhere")
    assert status == 0
    assert out.splitlines()[0] == "Published top-1 accuracy (%); protocol: base_to_new; CLIP: vit_b16."
    assert rows(out)["comma"][-2:] == ["COMMA@3584f31 README.md (H computed)", "79.01"]
    status, out, _ = show(
        "--published", "--methods", "coop", "--data", "dtd", "--clip", "rn50", "--format", "csv"
    )
    assert {line.split(",")[0] for line in out.splitlines()[1:]} == {"coop"}
    status, _, err = show("--published", "--methods", "nobody")
    assert (status, "there are numbers of zero_shot" in err) == (1, True)
