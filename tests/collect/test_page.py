"""The page of results: what it holds, its safety, and how it is written."""

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
from tests.support.report_trees import HOSTILE, campaign, hostile, put
from tests.support.result_trees import add, fail, key, score

from mmadapt.collect import load_results
from mmadapt.collect.__main__ import main
from mmadapt.collect.page import figures
from mmadapt.collect.page.model import build
from mmadapt.collect.page.page import render, write_report
from mmadapt.collect.page.views import numbers
from mmadapt.errors import UserError


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return load_results(campaign(tmp_path_factory.mktemp("campaign")))


@pytest.fixture(scope="module")
def page(runs):
    return render(runs)


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


# ---- the page -------------------------------------------------------------------------------------


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
