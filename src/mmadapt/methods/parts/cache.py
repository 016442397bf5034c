"""A cache of shots: its options and its votes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from mmadapt.methods.parts.recipe import Recipe

SearchAlpha = Literal["grid", "exact"]


class CacheOptions(Recipe, total=False):
    """What a method that extends `mmadapt.methods.tip_adapter.TipAdapter` passes on to it."""

    search_scale: Sequence[float] | None
    search_step: Sequence[int]
    search_alpha: SearchAlpha
    logit_scale: float | None
    text_features: Tensor | None


def class_affinities(
    cosines: Tensor, labels: Tensor, classes: int, beta: float | Tensor, shots: int = 0
) -> Tensor:
    """Return ``exp(−β (1 − cosines)) · one_hot(labels)`` without the one-hot matrix.

    Args:
        cosines: Products of queries and keys (..., B, N).
        labels: Class of each key (N,), in any order.
        classes: Number C of classes.
        beta: Sharpness β.
        shots: What `shots_per_class` returns of the labels; 0 always holds.

    Returns:
        Votes (..., B, C).
    """
    weights = torch.exp(beta * (cosines - 1))
    if shots:
        by_shot: Tensor = weights.unflatten(-1, (-1, shots))
        return by_shot.sum(dim=-1)
    votes = weights.new_zeros(*cosines.shape[:-1], classes)
    return votes.index_add(-1, labels, weights)


def shots_per_class(labels: Tensor, classes: int) -> int:
    """Return K if labels are K times class 0, then K times class 1 and so on; 0 if they are anything else."""
    shots, rest = divmod(len(labels), classes)
    if rest or not shots:
        return 0
    expected = torch.arange(classes, device=labels.device).repeat_interleave(shots)
    return shots if torch.equal(labels, expected) else 0
