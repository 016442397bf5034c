"""LaTeX of every view is well-formed, and its captions stand alone."""

import re
from dataclasses import replace

import pytest
from tests.support.result_trees import add, score

from mmadapt.collect.tables.render import escape_latex

UNESCAPED = re.compile(r"(?<!\\)[%#_]")
VIEWS = {
    "default": (),
    "cost": ("--view", "cost"),
    "methods-by-data": ("--view", "methods-by-data"),
    "compare": ("--compare", "coop", "tip_adapter"),
    "against": ("--against", "published"),
}


@pytest.fixture
def runs(tmp_path):
    for method in ("coop", "tip_adapter"):
        for seed, data in ((1, "dtd"), (2, "dtd"), (1, "a_b&c%$#")):
            common = {"method": method, "seed": seed, "shots": 16, "dirty": seed == 2}
            add(tmp_path, 0.5, data=data, tuned={"alpha": 1.0} if method == "tip_adapter" else None, **common)
            new = replace(score(0.6), classifier="text_only" if method == "tip_adapter" else "names")
            add(
                tmp_path, scores={"base": score(0.7), "new": new}, data=data, protocol="base_to_new", **common
            )
        names = ["imagenet", *(f"target_{i}" for i in range(8))]
        scores = {
            name: replace(score(0.5), data=name, classifier="sliced" if i else "own")
            for i, name in enumerate(names)
        }
        for protocol in ("cross_dataset", "domain_generalization"):
            add(tmp_path, scores=scores, protocol=protocol, data="imagenet", method=method, shots=16)
    return tmp_path


@pytest.mark.parametrize("view", VIEWS)
def test_structure(runs, show, view):
    status, out, err = show(*VIEWS[view], "--format", "latex")
    assert (status, err) == (0, "")
    blocks = out.split("\n\n")
    assert blocks[0].startswith("% Needs \\usepackage{booktabs}.\n")
    blocks[0] = blocks[0].split("\n", 1)[1]
    labels = re.findall(r"\\label\{(.*?)\}", out)
    assert len(labels) == len(set(labels)) == len(blocks)
    assert all(re.fullmatch(r"tab:[a-z0-9-]+", label) for label in labels)
    for block in blocks:
        assert not UNESCAPED.search(block), UNESCAPED.search(block)
        plain = re.sub(r"\\[{}]", "", block)
        assert plain.count("{") == plain.count("}")
        assert len(re.findall(r"(?<!\\)\$", block)) % 2 == 0
        columns = len(re.search(r"\\begin\{tabular\}\{([lr]+)\}", block)[1])
        rows = (
            block.split("\\toprule\n")[1]
            .split("\\bottomrule")[0]
            .replace("\\midrule\n", "")
            .strip()
            .splitlines()
        )
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {columns - 1}
        assert all(row.endswith(r" \\") for row in rows)
        assert [word in block for word in (r"\toprule", r"\midrule", r"\bottomrule")] == [True] * 3
        begun, ended = re.findall(r"\\begin\{(.*?)\}", block), re.findall(r"\\end\{(.*?)\}", block)
        assert begun == ended[::-1]
        assert block.isascii()


def test_caption_stands_alone(runs, show):
    out = show("--format", "latex", "--protocol", "cross_dataset")[1]
    caption = re.search(r"\\caption\{(.*)\}", out)[1]
    for words in (
        "Top-1 accuracy", "n = 1 seed, no standard deviation", "16 shots",
        r"protocol: cross\_dataset, version 1", r"CLIP: vit\_b16", "without the source",
        r"classifier: own (imagenet), sliced (target\_0", "selection: last",
        r"tuned on validation images: none",
    ):  # fmt: skip
        assert words in caption
    assert r"$\ddagger$ classified by the trained logits" in out
    assert r"0.5" not in caption
    assert out.count(r"\begin{table*}") == 1  # ten columns
    few = show("--format", "latex", "--protocol", "few_shot")[1]
    assert r"tuned on validation images: tip\_adapter (alpha)" in few
    assert "sample standard deviation (ddof = 1) over n = 2 seeds" in few


def test_marks_in_math(runs, show):
    out = show("--format", "latex", "--protocol", "base_to_new")[1]
    assert r"$^{*\S}$" in out
    assert r"\textbf{" in out


@pytest.mark.parametrize(
    ("text", "latex"),
    [("a_b", r"a\_b"), ("50 %", r"50 \%"), ("a\\b", r"a\textbackslash{}b"), ("−1 ± 2 · 3", r"$-$1 $\pm$ 2 $\cdot$ 3"),
     ("{§}", r"\{$\S$\}"), ("a [b|c]", r"a [b$|$c]")],
)  # fmt: skip
def test_escape(text, latex):
    assert escape_latex(text) == latex
