"""Reliability diagrams."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from mmadapt.collect.figures.style import colour_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmadapt.collect.results.details import SetDetails


def draw_reliability(heading: str, found: Mapping[str, SetDetails], methods: Sequence[str] = ()) -> Figure:
    """Draw accuracy against confidence, a panel per method; below the diagonal a method is overconfident.

    Args:
        heading: What the figure is about.
        found: Pooled bins by method.
        methods: All methods of a set of figures, so that each keeps its colour; also their order.
    """
    names = [name for name in methods if name in found] or list(found)
    width = min(4, len(names))
    height = math.ceil(len(names) / width)
    figure = Figure(figsize=(2.5 * width + 0.4, 2.6 * height + 0.5), layout="constrained")
    for index, name in enumerate(names):
        own, bins = found[name], found[name].bins
        assert bins is not None
        edges = [i / len(bins.count) for i in range(len(bins.count))]
        axes = figure.add_subplot(height, width, index + 1)
        axes.plot([0, 1], [0, 1], linestyle="--", color="0.5", linewidth=0.9)
        axes.bar(
            edges,
            bins.accuracy,
            1 / len(edges),
            align="edge",
            alpha=0.75,
            color=colour_of(name, methods or names),
            edgecolor="white",
            linewidth=0.5,
            label="accuracy",
        )
        spots = zip(bins.count, bins.confidence, bins.accuracy, strict=True)
        axes.plot(*zip(*((c, a) for n, c, a in spots if n), strict=True), "k.", markersize=3)
        shares = axes.twinx()
        shares.step(
            [*edges, 1.0],
            [*(n / sum(bins.count) for n in bins.count), 0.0],
            where="post",
            color="0.25",
            linewidth=0.7,
        )
        shares.set_ylim(0, 4)  # the lowest quarter of the panel: share of the images
        shares.set_yticks([])
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy")
        have = f"n = {len(own.ece)}" + (f" of {own.runs}" if len(own.ece) < own.runs else "")
        ece = 100 * sum(own.ece) / len(own.ece)
        axes.set_title(f"{name}\nECE {ece:.2f} %, {have}", loc="left", fontsize=8)
    figure.suptitle(f"{heading} · line: share of images", x=0.01, ha="left", fontsize=8.5)
    return figure
