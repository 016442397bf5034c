"""The numbers and figures of the page of results."""

import re

import pytest
from tests.support.report_trees import DATA, METHODS, SEEDS, SHOTS, campaign, put
from tests.support.result_trees import score

from mmadapt.collect import load_results
from mmadapt.collect.page import figures, svg
from mmadapt.collect.page.model import build
from mmadapt.collect.page.page import render
from mmadapt.collect.page.rows import adapt_seconds
from mmadapt.collect.page.views import numbers
from mmadapt.collect.results import details
from mmadapt.results import harmonic_mean


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    runs = load_results(campaign(tmp_path_factory.mktemp("campaign")))
    return {block.protocol: block for block in build(runs)}


# ---- numbers -------------------------------------------------------------------------------------


def test_blocks_by_protocol(blocks):
    assert list(blocks) == ["few_shot", "base_to_new", "domain_generalization"]
    assert [block.kind for block in blocks.values()] == ["shots", "base_new", "transfer"]


def test_few_shot_average_comes_first(blocks):
    labels = [label for label, _ in blocks["few_shot"].accuracy]
    assert labels[:3] == ["Average over 2 data sets", "caltech101", "dtd"]
    assert "All data sets, 16 shots" in labels
    expected = 100 * sum(level + 0.04 * 4 + 0.015 for level in DATA.values()) / 2
    assert blocks["few_shot"].headline["maple", 16].mean == pytest.approx(expected)


def test_h_by_run_and_of_averages(blocks):
    tables = dict(blocks["base_to_new"].accuracy)
    base = {seed: 100 * (0.4 + 0.02 + 0.01 * seed) for seed in SEEDS}
    new = 100 * (1 - 0.4 - 0.02)
    cell = tables["dtd"].cells["coop", "H"]
    assert cell.values == pytest.approx({seed: harmonic_mean(base[seed], new) for seed in SEEDS})
    average = tables["Average over 2 data sets"].cells
    bases = {seed: value + 20 for seed, value in base.items()}  # caltech101 is 40 points above dtd
    expected = {seed: harmonic_mean(bases[seed], new - 20) for seed in SEEDS}
    assert average["coop", "H"].values == pytest.approx(expected)
    mean_of_h = sum(tables[data].cells["coop", "H"].mean for data in DATA) / 2
    assert abs(average["coop", "H"].mean - mean_of_h) > 1  # H of averages is no average of H


def test_targets_are_averaged_without_the_source(blocks):
    (label, table), *_ = blocks["domain_generalization"].accuracy
    assert label == "From imagenet"
    assert table.columns == ("imagenet", "imagenet_v2", "imagenet_a", "Average")
    assert table.cells["coop", "Average"].mean == pytest.approx(100 * ((0.62 + 0.32) / 2))


def test_no_average_over_targets_with_a_hole(tmp_path):
    shift = {"protocol": "domain_generalization", "data": "imagenet"}
    put(tmp_path, {"imagenet": score(0.7), "imagenet_v2": score(0.6), "imagenet_a": score(0.3)}, **shift)
    put(tmp_path, {"imagenet": score(0.7), "imagenet_v2": score(0.6)}, method="maple", **shift)
    (_, table), *_ = build(load_results(tmp_path))[0].accuracy
    assert ("coop", "Average") in table.cells
    assert ("maple", "Average") not in table.cells


def test_unusual_sets_are_still_shown(tmp_path):
    put(tmp_path, {"test": score(0.5), "other": score(0.6)})
    found = load_results(tmp_path)
    assert build(found)[0].kind == "shots"
    assert "dtd, other" in render(found)


def test_pooled_bins_are_weighted_by_their_counts():
    one = details.SetDetails({"a": (1, 2)}, details.Bins((1, 0), (0.2, 0.0), (0.0, 0.0)))
    two = details.SetDetails({"a": (2, 2)}, details.Bins((3, 2), (0.4, 0.8), (1.0, 0.5)))
    pooled = details.pool([one, two])
    assert pooled.classes == {"a": (3, 4)}
    assert pooled.bins.count == (4, 2)
    assert pooled.bins.confidence == pytest.approx((0.35, 0.8))
    assert pooled.bins.accuracy == pytest.approx((0.75, 0.5))


def test_seconds_to_adapt_leave_out_encoding_and_evaluation():
    assert adapt_seconds({"encode_seconds": 9.0, "train_seconds": 2.0, "search_seconds": 0.5}) == 2.5
    assert adapt_seconds({"eval_seconds": 1.0}) == 0
    assert adapt_seconds({}) is None


# ---- figures -------------------------------------------------------------------------------------


def test_curves_have_a_series_by_method_and_a_point_by_shots(blocks):
    _, table = blocks["few_shot"].accuracy[0]
    figure = figures.curves(table, numbers(list(METHODS)))
    series = re.findall(r'<g class="s (\w+)" data-m="(\d)">(.*?)</g>', figure)
    points = {index: inner.count('class="mk"') for _, index, inner in series}
    assert points == {"0": len(SHOTS), "1": len(SHOTS), "2": 0}
    assert [colour for colour, _, inner in series if "flat" in inner] == ["base"]
    tip = (
        f"maple, 16 shots: {table.cells['maple', 16].mean:.2f} ± {table.cells['maple', 16].std:.2f} % (n = 2)"
    )
    assert f'data-t="{tip}"' in figure


def test_scatter_places_points_by_base_and_new(blocks):
    table = dict(blocks["base_to_new"].accuracy)["dtd"]
    figure = figures.base_new(table, numbers(list(METHODS)))
    found = re.findall(r'<use class="mk" href="#m\d" x="([\d.]+)" y="([\d.]+)" data-t="(\w+)', figure)
    x = {method: float(left) for left, _, method in found}
    y = {method: float(top) for _, top, method in found}
    assert x["zero_shot"] < x["coop"] < x["maple"]  # base rises
    assert y["zero_shot"] < y["coop"] < y["maple"]  # new falls: larger y is lower
    assert 'class="iso"' in figure


def test_bars_end_at_their_value(blocks):
    _, table = blocks["domain_generalization"].accuracy[0]
    figure = figures.bars(table, "imagenet_v2", numbers(list(METHODS)))
    ends = [float(end) for end in re.findall(r'class="bar" d="M4 \d+H([\d.]+)"', figure)]
    full = 332 - 4
    assert ends == pytest.approx([4 + full * value for value in (0.60, 0.62, 0.64)], abs=0.06)


@pytest.mark.parametrize(("low", "high"), [(0, 100), (61.3, 62.1), (0.002, 0.0031), (5, 5.5), (-3, 8)])
def test_ticks_are_round_and_inside(low, high):
    found = svg.ticks(low, high)
    assert 2 <= len(found) <= 6
    assert all(
        low - 1e-9 <= value <= high + 1e-9 and float(text) == pytest.approx(value) for value, text in found
    )
