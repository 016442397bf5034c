"""Markdown, LaTeX, CSV, JSON and files."""

import csv
import io
import json
import math

import pytest
from tests.support.result_trees import add

from mmadapt.collect import load_results, summarise, to_frame


def test_latex(tmp_path, show):
    add(tmp_path, 0.5, method="clip_adapter", data="a&b_c", seed=1, dirty=True)
    add(tmp_path, 0.6, method="clip_adapter", data="a&b_c", seed=2)
    add(tmp_path, 0.4, method="coop", data="a&b_c", shots=2)
    add(tmp_path, 0.3, method="ape", data="a&b_c", shots=1)
    caption = (
        r"\caption{Top-1 accuracy (\%, $\uparrow$) on a\&b\_c; scored set: test; protocol: few\_shot, "
        r"version 1; CLIP: vit\_b16; mean $\pm$ sample standard deviation (ddof = 1) over n = 2 seeds, "
        r"or over (n) where given; selection: last; tuned on validation images: none.}"
    )
    assert show("--format", "latex")[1].splitlines() == [
        r"% Needs \usepackage{booktabs}.",
        r"\begin{table}",
        r"\centering",
        caption,
        r"\label{tab:few-shot-vit-b16-a-b-c-test-top1}",
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
