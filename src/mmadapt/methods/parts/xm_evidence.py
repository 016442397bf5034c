"""What XMAdapter knows of images before fusion: their affinities to both caches, and how these disagree."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mmadapt.distributed import global_mean
from mmadapt.methods.parts.cache_search import class_affinities

HardWeight = Literal["class", "all", "focal", "none"]
"""Difference d of the affinities by which an image's loss is weighted: between their means over the shots of its
``class``; mean difference over ``all`` shots; ``focal``: the first times (1 − p) of its class; or ``none``."""


class Evidence(NamedTuple):
    """What is known of B images before fusion.

    Attributes:
        zero_shot: Scaled cosines with the class texts (B, C).
        cosines: Cosines with the image keys (B, N).
        text_cosines: Cosines with the class texts in the low dimension (B, C).
        cache_labels: Class of each key (N,).
    """

    zero_shot: Tensor
    cosines: Tensor
    text_cosines: Tensor
    cache_labels: Tensor

    def shots(self) -> Tensor:
        """Return the number of keys of each class, (C,)."""
        return torch.bincount(self.cache_labels, minlength=self.zero_shot.shape[1])

    def image_votes(self, beta: float | Tensor) -> Tensor:
        """Return the image affinities summed over the shots of each class, (B, C)."""
        return class_affinities(self.cosines, self.cache_labels, self.zero_shot.shape[1], beta)

    def text_votes(self, beta: float | Tensor) -> Tensor:
        """Return the same of the text affinities: each class's own, times its number of shots."""
        return torch.exp(beta * (self.text_cosines - 1)) * self.shots()


@torch.no_grad()
def hard_weights(
    kind: HardWeight, evidence: Evidence, labels: Tensor, losses: Tensor, beta: Tensor, text_beta: Tensor
) -> Tensor:
    """Return the weight of each image's loss (B,): ``(1 + d / mean d) / 2``, or ``d / mean d`` if ``focal``.

    Both are 1 on average, and the first is never below one half.

    Args:
        kind: How the affinities are compared.
        evidence: What is known of the images.
        labels: Classes (B,).
        losses: Cross-entropies (B,), read by ``focal`` alone.
        beta: Sharpness of the image affinities.
        text_beta: Sharpness of the text affinities.
    """
    text = torch.exp(text_beta * (evidence.text_cosines - 1))
    if kind == "all":
        image = torch.exp(beta * (evidence.cosines - 1))
        difference = (image - text[:, evidence.cache_labels]).abs().mean(dim=-1)
    else:
        image = evidence.image_votes(beta) / evidence.shots().clamp_min(1)
        difference = (image - text).gather(1, labels[:, None]).squeeze(1).abs()
    if kind == "focal":
        difference = difference * (1 - torch.exp(-losses))
        return difference / global_mean(difference).clamp_min(1e-12)
    return (1 + difference / global_mean(difference).clamp_min(1e-12)) / 2
