"""What ``python -m mmadapt.collect`` prints of one campaign, letter by letter.

A case without a stored file writes it and fails: read what is in it before it is committed.
"""

from itertools import product

import pytest
from tests.support import FILES
from tests.support.table_campaign import campaign

from mmadapt.collect.__main__ import main
from mmadapt.collect.tables.arrange import VIEWS

FOLDER = FILES / "tables"
MAIN = "multirun/main"
FORMS = ("md", "latex", "csv", "json")
FEW = "--methods coop,tip_adapter"
PAPERS = "--published --methods coop,zero_shot --shots 16 --data dtd,eurosat"
CASES = {
    f"{view or 'default'}-{form}": f"{MAIN} --format {form}" + f" --view {view}" * bool(view)
    for view, form in product(("", *VIEWS), FORMS[:3])
}
for view in VIEWS:
    CASES[f"{view}-json"] = f"{MAIN} --format json --view {view} {FEW} --shots 16"
for metric in ("top1_macro", "top5", "nll", "ece"):
    CASES[f"metric-{metric}"] = f"{MAIN} --metric {metric}"
for form in FORMS:
    CASES[f"compare-{form}"] = f"{MAIN} --compare coop tip_adapter --format {form}"
    CASES[f"against-{form}"] = f"{MAIN} --against published {FEW} --format {form}"
    CASES[f"published-{form}"] = f"{PAPERS} --format {form}"
CASES |= {
    "cost-one-set": f"{MAIN} --view cost --data dtd",
    "cost-base-to-new": f"{MAIN} --view cost --protocol base_to_new --methods maple,coop",
    "cost-rn50": f"{MAIN} --view cost --clip rn50",
    "compare-ece": f"{MAIN} --compare maple coop --metric ece",
    "compare-by-data": f"{MAIN} --compare coop tip_adapter --view methods-by-data",
    "compare-zero": f"{MAIN} --compare coop zero_shot",
    "filtered": f"{MAIN} --methods maple,coop --seeds 1,2 --data dtd,eurosat --shots 16",
    "set-new": f"{MAIN} --set new",
    "set-dtd": f"{MAIN} --set dtd --protocol cross_dataset",
    "by-tag": "multirun/study --by-tag",
    "by-tag-compare": "multirun/study --by-tag --compare",
    "by-tag-against": "multirun/study --by-tag --against published --format csv",
    "mixed": "multirun/mixed --allow-mixed",
    "mixed-csv": "multirun/mixed --allow-mixed --view methods-by-data --format csv",
    "mixed-compare": "multirun/mixed --allow-mixed --compare maple coop",
    "refused-mixed": "multirun/mixed",
    "refused-tags": "multirun/main multirun/study",
    "refused-method": f"{MAIN} --methods copo",
    "refused-set": f"{MAIN} --set tset",
    "refused-combination": f"{MAIN} --methods maple --shots 1 --protocol few_shot",
    "refused-view": f"{MAIN} --protocol few_shot --view shifts",
    "refused-published": "--published --methods xyz",
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("tables")
    campaign(root / "multirun")
    return root


@pytest.mark.parametrize("name", CASES)
def test_what_is_printed(written, monkeypatch, capsys, name):
    monkeypatch.chdir(written)
    words = CASES[name].split()
    if name == "by-tag-compare":
        words += ["coop [study/learned]", "coop [study/fixed]"]
    status = main(words)
    captured = capsys.readouterr()
    found = f"exit {status}\n{captured.err}---\n{captured.out}"
    stored = FOLDER / f"{name}.txt"
    if not stored.exists():
        stored.parent.mkdir(exist_ok=True)
        stored.write_text(found, encoding="utf-8")
        pytest.fail(f"no {stored}: written")
    assert found == stored.read_text(encoding="utf-8")
