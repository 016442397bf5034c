"""Figures of all views show what the tables say."""

import itertools
import math
from dataclasses import replace

import pytest
from tests.support.result_trees import add, score

from mmadapt.collect import load_results, summarise
from mmadapt.results import write_json

COST = {"trainable_params": 2048, "train_seconds": 10.0, "eval_seconds": 2.0}

NO_CLASSES = {"classes": [], "correct": [], "total": []}


def points(axes):
    return {
        c.get_label(): tuple(map(float, (c.lines[0].get_xdata()[0], c.lines[0].get_ydata()[0])))
        for c in axes.containers
    }


def add_pair(root, base, new, **more):
    return add(
        root,
        scores={"base": score(base), "new": score(new)},
        **{"protocol": "base_to_new", "shots": 16, **more},
    )


def test_base_new_points_are_the_cells(tmp_path):
    from mmadapt.collect.figures.points import draw_base_new

    for seed, more in ((1, 0.0), (2, 0.1)):
        add_pair(tmp_path, 0.7 + more, 0.5, seed=seed)
    add_pair(tmp_path, 0.6, 0.6, method="b")
    add(tmp_path, scores={"base": score(0.6)}, method="half", protocol="base_to_new", shots=16)
    (table,) = summarise(load_results(tmp_path))
    axes = draw_base_new(table).axes[0]
    assert points(axes) == {"coop": pytest.approx((75.0, 50.0)), "b": pytest.approx((60.0, 60.0))}
    (bars,) = [c for c in axes.containers if c.get_label() == "coop"]
    assert bars.lines[2][0].get_segments()[0][:, 0] == pytest.approx([75 - 50**0.5, 75 + 50**0.5])
    assert "not shown, incomplete: 1" in axes.get_title(loc="left")
    curves = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert curves
    for line in curves:
        h = {round(2 * b * n / (b + n), 6) for b, n in zip(*line.get_data(), strict=True) if math.isfinite(n)}
        assert len(h) == 1
        assert f"H {h.pop():g}" in {text.get_text() for text in axes.texts}


def test_target_bars_are_the_cells(tmp_path):
    from mmadapt.collect.figures.points import draw_targets

    for method, top1 in (("a", 0.6), ("b", 0.5)):
        targets = {"dtd": replace(score(top1), data="dtd"), "eurosat": replace(score(0.8), data="eurosat")}
        scores = {"imagenet": replace(score(0.7), data="imagenet"), **targets}
        add(tmp_path, scores=scores, method=method, protocol="cross_dataset", data="imagenet", shots=16)
    (table,) = summarise(load_results(tmp_path))
    axes = draw_targets(table).axes[0]
    bars = {c.get_label(): [bar.get_height() for bar in c] for c in axes.containers if hasattr(c, "patches")}
    assert bars == {"a": pytest.approx([70, 60, 80, 70]), "b": pytest.approx([70, 50, 80, 65])}
    assert [t.get_text() for t in axes.get_xticklabels()] == [
        "imagenet (source)",
        "dtd",
        "eurosat",
        "Average",
    ]


def test_cost_points_are_the_cells(tmp_path):
    from mmadapt.collect.figures.points import draw_cost

    add(tmp_path, 0.6, cost=COST)
    add(tmp_path, 0.5, cost={**COST, "trainable_params": 0}, method="zero_shot", shots=0)
    (table,) = summarise(load_results(tmp_path), view="cost")
    one, other = draw_cost(table).axes
    assert points(one) == {"zero_shot": pytest.approx((0, 50)), "coop": pytest.approx((2048, 60))}
    assert points(other) == {"zero_shot": pytest.approx((12, 50)), "coop": pytest.approx((12, 60))}


def test_panels_have_the_average_first(tmp_path):
    from mmadapt.collect.figures.shots import draw_panels

    for data, shots, seed in itertools.product(("dtd", "eurosat"), (1, 2), (1, 2)):
        add(tmp_path, 0.5 + shots / 10 + (data == "dtd") / 10, data=data, shots=shots, seed=seed)
    figure = draw_panels(summarise(load_results(tmp_path)))
    headings = [axes.get_title(loc="left") for axes in figure.axes]
    assert headings == ["Average over 2 data sets", "dtd", "eurosat"]
    drawn = [list(axes.containers[0].lines[0].get_ydata()) for axes in figure.axes]
    assert drawn == [pytest.approx(y) for y in ([65, 75], [70, 80], [60, 70])]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["coop"]


def details(path, count, confidence, accuracy, name="test"):
    bins = {"count": count, "confidence": confidence, "accuracy": accuracy}
    write_json(path / "details.json", {"schema": 1, "sets": {name: {**NO_CLASSES, "reliability": bins}}})


def test_reliability_is_pooled_over_seeds(tmp_path):
    from mmadapt.collect.results.details import read_reliability

    details(add(tmp_path, seed=1), [10, 0, 30], [0.2, 0.0, 0.9], [0.1, 0.0, 0.8])
    details(add(tmp_path, seed=2), [30, 0, 10], [0.3, None, 0.8], [0.3, None, 1.0])
    add(tmp_path, seed=3)
    (found,) = read_reliability(load_results(tmp_path)).values()
    bins = found["coop"].bins
    assert bins.count == (40, 0, 40)
    assert bins.confidence == pytest.approx([0.275, 0, 0.875])
    assert bins.accuracy == pytest.approx([0.25, 0, 0.85])
    assert found["coop"].ece == pytest.approx([(10 * 0.1 + 30 * 0.1) / 40, 10 * 0.2 / 40])
    assert found["coop"].runs == 3


def test_reliability_diagram_shows_the_bins(tmp_path):
    from mmadapt.collect.figures.reliability import draw_reliability
    from mmadapt.collect.results.details import read_reliability

    details(add(tmp_path, seed=1), [10, 0, 30], [0.2, 0.0, 0.9], [0.1, 0.0, 0.8])
    add(tmp_path, seed=2)
    (found,) = read_reliability(load_results(tmp_path)).values()
    axes = draw_reliability("x", found).axes[0]
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([0.1, 0.0, 0.8])
    assert [bar.get_x() for bar in axes.patches] == pytest.approx([0, 1 / 3, 2 / 3])
    assert axes.get_title(loc="left") == "coop\nECE 10.00 %, n = 1 of 2"


@pytest.mark.parametrize(
    "content",
    [
        {"schema": 2},
        {"schema": 1, "sets": {"test": {**NO_CLASSES, "reliability": {"count": [1]}}}},
        {"schema": 1, "sets": []},
    ],
)
def test_broken_details_are_named_and_read_for_figures_only(tmp_path, show, content):
    path = write_json(add(tmp_path) / "details.json", content)
    assert show()[0] == 0
    status, _, err = show("--plot", tmp_path / "figures")
    assert (status, str(path) in err) == (1, True)


def test_all_figures_of_all_protocols(tmp_path, show):
    runs = tmp_path / "runs"
    for data, shots in itertools.product(("dtd", "eurosat"), (4, 16)):
        path = add(runs, 0.5, data=data, shots=shots, cost=COST)
        details(path, [1], [0.5], [0.5])
    details(add(runs, 0.4, data="dtd", shots=0, method="zero_shot"), [1], [0.5], [0.5])
    add_pair(runs, 0.8, 0.6, cost=COST)
    targets = {name: replace(score(0.5), data=name) for name in ("imagenetv2", "imagenet_a")}
    scores = {"imagenet": replace(score(0.7), data="imagenet"), **targets}
    add(runs, scores=scores, protocol="domain_generalization", data="imagenet", shots=16)
    assert show("--plot", tmp_path / "a", "--figure-format", "svg", root=runs)[0] == 0
    names = [f"few_shot-vit_b16-{name}-test-top1" for name in ("dtd", "eurosat", "average", "panels")]
    names += [f"few_shot-vit_b16-average-cost-{shots}shot" for shots in (4, 16)]
    names += [f"few_shot-vit_b16-{data}-test-reliability-16shot" for data in ("dtd", "eurosat")]
    names += ["base_to_new-vit_b16-dtd-base-new-top1-16shot", "base_to_new-vit_b16-dtd-cost-16shot"]
    names += ["domain_generalization-vit_b16-imagenet-shifts-top1-16shot"]
    assert {path.name for path in (tmp_path / "a").iterdir()} == {f"{name}.svg" for name in names}
    show("--plot", tmp_path / "b", "--figure-format", "svg", root=runs)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert (
        show("--plot", tmp_path / "c", "--figure-format", "pdf", "--protocol", "base_to_new", root=runs)[0]
        == 0
    )
    assert {path.suffix for path in (tmp_path / "c").iterdir()} == {".pdf"}
