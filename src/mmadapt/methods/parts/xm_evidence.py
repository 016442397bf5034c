"""Pieces of XMAdapter: what is known of an image before fusion, the low-dimensional maps, the weights."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from mmadapt.distributed import global_mean


class Evidence(NamedTuple):
    """What is known of B images before fusion.

    Attributes:
        zero_shot: Scaled cosines with the class texts (B, C).
        cosines: Cosines with the image keys (B, N).
        text_cosines: Cosines with the class texts in the low dimension (B, C).
    """

    zero_shot: Tensor
    cosines: Tensor
    text_cosines: Tensor


def projection_map(dim: int, low_dim: int, kind: str) -> nn.Module:
    """Return a bias-free map D → E: ``linear``, or ``mlp`` with a ReLU between, D → D/16 → E."""
    if kind == "linear":
        return nn.Linear(dim, low_dim, bias=False)
    inner = max(dim // 16, 1)
    return nn.Sequential(nn.Linear(dim, inner, bias=False), nn.ReLU(), nn.Linear(inner, low_dim, bias=False))


def unit_mean(difference: Tensor) -> Tensor:
    """Return ``(1 + d / mean d) / 2``: 1 on average, and never below one half."""
    return (1 + difference / global_mean(difference).clamp_min(1e-12)) / 2
