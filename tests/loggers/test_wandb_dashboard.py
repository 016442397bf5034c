"""The saved view of a W&B project, as far as it goes without a server: its specification."""

from __future__ import annotations

import json
import sys

import pytest

from mmadapt.loggers.wandb_dashboard import main

pytestmark = pytest.mark.filterwarnings("ignore:Pydantic V1 style")  # wandb-workspaces' own


@pytest.fixture
def panels(tmp_path, capsys):
    """Write the specification by the command; return its panels by title."""
    file = tmp_path / "new" / "view.json"
    main(["--entity", "team", "--project", "proj", "--dry-run", str(file)])
    assert "nothing was sent" in capsys.readouterr().out
    content = json.loads(file.read_text())
    assert (content["entity"], content["project"], content["displayName"]) == ("team", "proj", "mmadapt")
    sections = content["spec"]["section"]["panelBankConfig"]["sections"]
    found = [panel for section in sections for panel in section["panels"]]
    return {panel["config"].get("chartTitle"): panel for panel in found}


@pytest.mark.parametrize("name", ["test", "base", "new"])
def test_accuracy_by_shots_is_the_mean_over_seeds_with_their_deviation(panels, name):
    panel = panels[f"{name}/top1 by shots, mean ± std over seeds"]
    assert panel["viewType"] == "Run History Line Plot"
    config = panel["config"]
    assert (config["xAxis"], config["metrics"]) == ("shots", [f"{name}/top1"])
    assert (config["groupBy"], config["aggregate"]) == ("run.value.method", True)
    assert (config["groupAgg"], config["groupArea"]) == ("mean", "stddev")


def test_base_against_new_is_a_scatter_of_summaries(panels):
    panel = panels["Base against new classes"]
    assert panel["viewType"] == "Scatter Plot"
    assert panel["config"]["xAxis"] == "summary:base/top1"
    assert panel["config"]["yAxis"] == "summary:new/top1"


def test_the_missing_package_is_named_with_its_extra(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    with pytest.raises(SystemExit) as stop:
        main(["--entity", "e", "--dry-run", str(tmp_path / "view.json")])
    assert stop.value.code == 1
    assert "pip install 'mmadapt[dashboard]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_saving_without_a_key_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("mmadapt.loggers.wandb_run.has_api_key", lambda: False)
    with pytest.raises(SystemExit):
        main(["--entity", "e"])
    assert "wandb login" in capsys.readouterr().err
