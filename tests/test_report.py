"""The page of results: its numbers, its figures, its safety, and how it is written."""

import itertools
import json
import math
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from report_trees import DATA, HOSTILE, METHODS, SEEDS, SHOTS, campaign, hostile, put
from result_trees import add, fail, key, score

from mmadapt.collect import load_results
from mmadapt.collect.__main__ import main
from mmadapt.errors import UserError
from mmadapt.report import details, figures, render, svg, write_report
from mmadapt.report.model import build, kind_of
from mmadapt.report.rows import adapt_seconds
from mmadapt.report.views import numbers
from mmadapt.results import harmonic_mean


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return load_results(campaign(tmp_path_factory.mktemp("campaign")))


@pytest.fixture(scope="module")
def page(runs):
    return render(runs)


@pytest.fixture(scope="module")
def blocks(runs):
    return {block.protocol: block for block in build(runs)}


class Tags(HTMLParser):
    """Collects the elements of a page and refuses one that is not closed."""

    VOID = ("meta", "input", "br", "link", "img")

    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag != "use" or self.open[-1] == "use":
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def data_of(page):
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S).group(1)
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


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
    put(
        tmp_path,
        {"imagenet": score(0.7), "imagenet_v2": score(0.6), "imagenet_a": score(0.3)},
        data="imagenet",
    )
    put(tmp_path, {"imagenet": score(0.7), "imagenet_v2": score(0.6)}, data="imagenet", method="maple")
    (_, table), *_ = build(load_results(tmp_path))[0].accuracy
    assert ("coop", "Average") in table.cells
    assert ("maple", "Average") not in table.cells


def test_unusual_sets_are_still_shown(tmp_path):
    put(tmp_path, {"test": score(0.5), "other": score(0.6)})
    found = load_results(tmp_path)
    assert kind_of(found) == "shots"
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


def test_cells_without_a_number_leave_no_point(tmp_path):
    add(tmp_path, math.nan)
    add(tmp_path, 0.5, shots=2)
    add(tmp_path, math.nan, data="eurosat")
    found = load_results(tmp_path)
    text = render(found)
    assert "nan" in text
    assert figures.curves(dict(build(found)[0].accuracy)["eurosat"], numbers(["coop"])) is None
    assert "2 runs without a finite score" in text
    assert {run["value"] for run in data_of(text)["runs"]} == {"nan", 0.5}


def test_page_is_closed_markup_and_names_everything(page, runs):
    found = Tags(page).found
    assert page.startswith("<!DOCTYPE html>")
    for word in ("main", "few_shot", "vit_b16", "caltech101, dtd", "2026-01-02 to 2026-01-03", "012345678"):
        assert word in page
    identities = [attributes["id"] for _, attributes in found if "id" in attributes]
    assert len(identities) == len(set(identities))
    assert len(data_of(page)["runs"]) == len(runs)


def test_captions_say_how_numbers_came_about(page):
    for words in (
        "sample standard deviation (ddof = 1) over n = 2 seeds", "selection: best_val",
        "protocol: base_to_new, version 1", "classifier of the classes it was trained on",
    ):  # fmt: skip
        assert words in page


def test_page_asks_nothing_of_the_network(page):
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#)|url\(|@import|https?://""", page)
    policy = re.search(r'content="(default-src [^"]*)"', page).group(1)
    assert policy.startswith("default-src 'none'")
    assert "'unsafe-inline'" not in policy.split("script-src")[1]


def test_data_keep_what_reproduces_a_run(page):
    data = data_of(page)
    run = next(run for run in data["runs"] if run["key"]["method"] == "maple")
    assert run["command"].startswith("python -m mmadapt protocol=few_shot clip=vit_b16 data=caltech101")
    assert run["selection"]["tuned"] == {"alpha": 1.5}
    assert data["pool"][run["config"]["method"]] == {"lr": 0.002}
    assert data["pool"][run["code"]]["versions"]["torch"] == "2.9.0"
    assert len(data["pool"]) < 12  # equal parts of configurations are kept once


def test_names_cannot_become_markup(tmp_path):
    text = render(load_results(hostile(tmp_path)))
    assert HOSTILE not in text
    found = Tags(text).found
    assert [attributes for tag, attributes in found if tag == "script"] == [
        {"type": "application/json", "id": "data"}, {},
    ]  # fmt: skip
    assert not [tag for tag, _ in found if tag == "img"]
    assert HOSTILE in json.dumps(data_of(text)).replace('\\"', '"')


# ---- warnings ------------------------------------------------------------------------------------


def test_warnings(tmp_path):
    add(tmp_path, 0.5, seed=1, dirty=True)
    add(tmp_path, 0.6, seed=2, config={"method": {"lr": 0.1}})
    fail(tmp_path, "RuntimeError: out of <memory>", seed=3)
    with pytest.raises(UserError, match="different configurations"):
        write_report(tmp_path / "r.html", load_results(tmp_path))
    assert not (tmp_path / "r.html").exists()
    assert main([str(tmp_path), "--html", str(tmp_path / "r.html"), "--allow-mixed"]) == 0
    text = (tmp_path / "r.html").read_text()
    for words in (
        "1 of 2 runs used code with uncommitted changes", "1 cell of different configurations",
        "1 run failed", "out of &lt;memory&gt;", "2 finished, 1 failed",
    ):  # fmt: skip
        assert words in text


@pytest.mark.parametrize(
    "content", ["{", '{"schema": 9, "sets": {}}', '{"schema": 1, "sets": {"test": {}}}', "[]"]
)
def test_broken_details_are_named(tmp_path, content):
    path = add(tmp_path) / "details.json"
    path.write_text(content)
    with pytest.raises(UserError, match=re.escape(str(path))):
        render(load_results(tmp_path))


# ---- writing -------------------------------------------------------------------------------------


def test_command_line(tmp_path, capsys):
    root, out = campaign(tmp_path), tmp_path / "new" / "report.html"
    assert main([str(root), "--html", str(out), "--methods", "coop,maple", "--protocol", "few_shot"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"wrote {out}" in captured.err
    assert {run["key"]["method"] for run in data_of(out.read_text())["runs"]} == {"coop", "maple"}
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]


def test_equal_results_give_equal_pages(runs, page):
    assert render(list(reversed(runs))) == page


def test_a_folder_is_refused(tmp_path, capsys):
    assert main([str(campaign(tmp_path)), "--html", str(tmp_path)]) == 1
    assert f"{tmp_path} is a folder" in capsys.readouterr().err


def test_an_unwritable_place_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([str(campaign(tmp_path)), "--html", str(tmp_path / "file" / "r.html")]) == 1
    assert "Cannot write" in capsys.readouterr().err


def test_other_outputs_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path), "--html", "r.html", "--check"])
    assert "--html writes one page of everything" in capsys.readouterr().err


def test_two_thousand_runs(tmp_path):
    put(tmp_path, {"test": score(0.5)})
    (one,) = load_results(tmp_path)
    grid = itertools.product(range(12), range(11), (1, 2, 4, 8, 16), (1, 2, 3))
    found = [
        replace(
            one,
            result=replace(one.result, key=key(f"m{method}", f"d{data}", shots, seed)),
            path=tmp_path / f"{i}",
        )
        for i, (method, data, shots, seed) in enumerate(grid)
    ]
    started = time.process_time()
    text = render(found)
    assert time.process_time() - started < 3  # CPU seconds: other work on the machine does not count
    assert len(found) == 1980
    assert len(text) < 5e6


def test_hundred_runs_are_small(tmp_path):
    runs = load_results(campaign(tmp_path))
    assert len(render(runs)) < 3000 * len(runs) + 60_000


def test_neither_torch_nor_matplotlib(tmp_path):
    code = (
        "import sys; from mmadapt.collect.__main__ import main; "
        f"assert main([{str(campaign(tmp_path))!r}, '--html', {str(tmp_path / 'r.html')!r}]) == 0; "
        "assert not {'torch', 'matplotlib', 'pandas', 'numpy'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)
