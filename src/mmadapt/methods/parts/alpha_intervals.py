"""Where in α an image is classified rightly by ``L + α S``: one interval per image, solved for and not tried.

Class y wins against class c where ``(L_y − L_c) + α (S_y − S_c) ≥ 0``: a half-line of α. With
``u_c = (S_c − S_y) / (L_y − L_c)`` it is ``1/α ≥ u_c`` where y leads without the cache and ``1/α ≤ u_c`` where it
trails, so that the interval is the inverse of ``[max u, min u]`` over the two groups of classes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def intervals(zero_shot: Tensor, votes: Tensor, labels: Tensor, alpha_max: float, error: float) -> Tensor:
    """Return between which α ≥ 0 images are right, (2, 2, ..., V): surely and possibly, each from and to.

    The leads are lowered and raised by a bound of the rounding: within the first interval an image is surely right,
    outside the second surely wrong. An interval that ends before it starts is empty.

    Args:
        zero_shot: Scaled zero-shot logits L, classes first (C, V).
        votes: Class affinities S ≥ 0 of the cache (..., C, V).
        labels: Class of each image (V,).
        alpha_max: Largest α that matters.
        error: Relative error of the votes, with that of the votes they are compared to.
    """
    rounding = 8 * torch.finfo(votes.dtype).eps
    slack = rounding * zero_shot.abs().amax() + alpha_max * (2 * error + rounding) * votes.amax()
    own = labels[None]
    lead = (zero_shot.gather(0, own) - zero_shot).scatter_(0, own, torch.inf)
    ahead = votes - votes.gather(-2, own.expand(*votes.shape[:-2], 1, -1))  # S_c − S_y
    return torch.stack([_ends(lead - slack, ahead), _ends(lead + slack, ahead)])


def _ends(lead: Tensor, ahead: Tensor) -> Tensor:
    tiny = torch.finfo(lead.dtype).tiny
    leads = lead > 0
    steepest = ahead * torch.where(lead.abs() < tiny, tiny, lead).reciprocal()
    trailed = (steepest + torch.where(leads, torch.inf, 0.0)).amin(dim=-2)
    led = steepest.add_(torch.where(leads, 0.0, -torch.inf)).amax(dim=-2)
    both = torch.stack([trailed, led])
    return torch.where(both > 0, both.reciprocal(), torch.inf)


def best_stretch(low: Tensor, high: Tensor, alpha_max: float) -> tuple[int, float, float]:
    """Return the widest stretch of α in ``(0, alpha_max]`` on which most of V intervals overlap.

    Args:
        low: Where they start (V,).
        high: Where they end (V,).
        alpha_max: Upper end of α.

    Returns:
        Their number there, the width of the stretch and its middle.
    """
    low, high = low.double(), high.double().clamp(max=alpha_max)
    some = low < high
    low, high = low[some], high[some]
    ends, order = torch.cat([low.new_tensor([0.0, alpha_max]), low, high]).sort(stable=True)
    steps = torch.cat([low.new_zeros(2), torch.ones_like(low), -torch.ones_like(high)])[order]
    counts, widths = steps.cumsum(0)[:-1].long(), ends.diff()
    counts = counts.masked_fill(widths <= 0, -1)
    top = int(torch.where(counts == counts.amax(), widths, -1.0).argmax())
    return int(counts[top]), float(widths[top]), float(ends[top] + ends[top + 1]) / 2
