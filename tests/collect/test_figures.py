"""Figures show what the tables say."""

import itertools
import math

import pytest
from tests.support.result_trees import add

from mmadapt.collect import load_results, summarise


def series(figure):
    return {
        container.get_label(): (list(container.lines[0].get_xdata()), list(container.lines[0].get_ydata()))
        for container in figure.axes[0].containers
    }


def test_figure_shows_the_table(tmp_path):
    from mmadapt.collect.figures.shots import draw

    for shots, seed in itertools.product((1, 2, 4), (1, 2)):
        add(tmp_path, 0.4, method="zero_shot", shots=shots, seed=seed)
        add(tmp_path, 0.5 + shots / 100 + seed / 100, shots=shots, seed=seed)
        if shots != 2:
            add(tmp_path, 0.7, method="gap", shots=shots, seed=seed)
    (table,) = summarise(load_results(tmp_path))
    figure = draw(table)
    axes = figure.axes[0]
    drawn = series(figure)
    assert drawn["coop"] == ([1, 2, 4], pytest.approx([52.5, 53.5, 55.5]))
    assert drawn["gap"][1] == pytest.approx([70.0, math.nan, 70.0], nan_ok=True)
    assert "zero_shot" not in drawn
    (line,) = [line for line in axes.lines if line.get_label() == "zero_shot"]
    assert line.get_ydata()[0] == pytest.approx(40.0)
    assert line.get_linestyle() == "--"
    bars = next(c for c in axes.containers if c.get_label() == "coop").lines[2][0].get_segments()
    assert bars[0][:, 1] == pytest.approx([52.5 - 0.5**0.5, 52.5 + 0.5**0.5])
    assert axes.get_xticks().tolist() == [1, 2, 4]
    assert axes.get_xscale() == "log"
    assert "%" in axes.get_ylabel()
    assert "shots" in axes.get_xlabel()
    assert "n = 2 seeds" in axes.get_title(loc="left")
    assert "points missing: 1" in axes.get_title(loc="left")
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"coop", "gap", "zero_shot"}


def test_zero_shot_that_varies_is_a_series(tmp_path):
    from mmadapt.collect.figures.shots import draw

    add(tmp_path, 0.4, method="zero_shot", shots=0)
    add(tmp_path, 0.5, method="zero_shot", shots=1)
    figure = draw(summarise(load_results(tmp_path))[0])
    assert series(figure)["zero_shot"] == ([0, 1], pytest.approx([40.0, 50.0]))
    assert figure.axes[0].get_xscale() == "symlog"


def test_zero_shot_at_0_shots_is_a_line_and_needs_no_tick(tmp_path):
    from mmadapt.collect.figures.shots import draw

    add(tmp_path, 0.4, method="zero_shot", shots=0)
    for shots, seed in itertools.product((1, 2), (1, 2)):
        add(tmp_path, 0.5, shots=shots, seed=seed)
    axes = draw(summarise(load_results(tmp_path))[0]).axes[0]
    assert axes.get_xticks().tolist() == [1, 2]
    assert [line.get_ydata()[0] for line in axes.lines if line.get_label() == "zero_shot"] == [
        pytest.approx(40.0)
    ]
    assert "points" not in axes.get_title(loc="left")
    add(tmp_path, math.nan, shots=2, seed=1)
    axes = draw(summarise(load_results(tmp_path))[0]).axes[0]
    assert "points missing: 1" in axes.get_title(loc="left")


def test_figure_files(tmp_path, show):
    for data in ("dtd", "eurosat"):
        add(tmp_path / "runs", 0.5, data=data)
    add(tmp_path / "runs", 0.5, data="dtd", method="partial")
    status, _, _ = show("--plot", tmp_path / "a", "--view", "methods-by-data", root=tmp_path / "runs")
    assert status == 0
    names = {
        f"few_shot-vit_b16-{data}-top1.{end}"
        for data in ("dtd-test", "eurosat-test", "average-test", "panels-test")
        for end in ("png", "svg")
    }
    assert {path.name for path in (tmp_path / "a").iterdir()} == names
    show("--plot", tmp_path / "b", root=tmp_path / "runs")
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    show("--plot", tmp_path / "c", "--plot-formats", "pdf", "--data", "dtd", root=tmp_path / "runs")
    assert [path.suffix for path in (tmp_path / "c").iterdir()] == [".pdf"]
