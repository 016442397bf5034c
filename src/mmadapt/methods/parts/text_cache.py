"""XMAdapter's text cache (arXiv 2404.12588): class texts and images in a low dimension, fused with an image cache."""

from __future__ import annotations

import copy
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmadapt.distributed import global_mean
from mmadapt.errors import UserError

Fusion = Literal["learned", "confidence", "fixed", "image", "text"]
Projection = Literal["linear", "mlp"]


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


class TextCache(nn.Module):
    """``A_T = exp(−β_T (1 − cos))`` with cosines of ``P_I f`` and ``P_T t``, and the ratio γ of its fusion.

    Attributes:
        img2txt: P_I, D → E.
        meta_net: P_T, D → E.
        beta: Sharpness β_T.
        fusion: Where γ comes from, see `XMAdapter`.
        gamma: γ where it is fixed, else where it starts.
        gamma_logit: γ before the sigmoid, if it is learned.
    """

    beta: Tensor

    def __init__(
        self, dim: int, low_dim: int | None, projection: Projection, beta: float, fusion: Fusion, gamma: float
    ) -> None:
        """Draw the maps; `align` gives them their start.

        Raises:
            UserError: If a number is out of range.
        """
        super().__init__()
        low_dim = max(dim // 4, 1) if low_dim is None else low_dim
        if not 1 <= low_dim <= dim:
            raise UserError(f"method.low_dim={low_dim} must lie between 1 and the feature width {dim}.")
        if not 0 <= gamma <= 1 or (fusion == "learned" and gamma in (0, 1)):
            raise UserError(
                f"method.gamma={gamma} must lie in [0, 1], inside it to be learned; "
                "use method.fusion=image or text for one cache alone."
            )
        self.fusion = fusion
        self.gamma = {"image": 1.0, "text": 0.0}.get(fusion, float(gamma))
        self.register_buffer("beta", torch.tensor(float(beta)))
        self.img2txt = projection_map(dim, low_dim, projection)
        self.meta_net = projection_map(dim, low_dim, projection)
        learned = torch.logit(torch.tensor(self.gamma)) if fusion == "learned" else None
        self.gamma_logit = None if learned is None else nn.Parameter(learned)

    @torch.no_grad()
    def align(self, texts: Tensor) -> None:
        """Start both maps alike; a linear one with the leading right singular vectors of the texts (C, D)."""
        if isinstance(self.img2txt, nn.Linear):
            basis = torch.linalg.svd(texts.double().cpu(), full_matrices=True).Vh
            self.img2txt.weight.copy_(basis[: self.img2txt.out_features])
        self.meta_net.load_state_dict(self.img2txt.state_dict())

    def forward(self, features: Tensor, texts: Tensor) -> Tensor:
        """Return the cosines (B, C) of unit image features (B, D) and texts (C, D) in the low dimension."""
        low_images = F.normalize(self.img2txt(features), dim=-1)
        return low_images @ F.normalize(self.meta_net(texts), dim=-1).T

    def fuse(self, image_votes: Tensor, text_votes: Tensor, gamma: float | Tensor | None = None) -> Tensor:
        """Return ``γ · image_votes + (1 − γ) · text_votes``, by its own γ unless given."""
        gamma = self._gamma(image_votes, text_votes) if gamma is None else gamma
        return gamma * image_votes + (1 - gamma) * text_votes

    def learned_gamma(self) -> dict[str, float]:
        """Return γ if it is learned."""
        return {} if self.gamma_logit is None else {"gamma": float(torch.sigmoid(self.gamma_logit))}

    def alone(self) -> Self:
        """Return the same cache without an image cache beside it: γ = 0."""
        twin = copy.copy(self)
        twin.fusion, twin.gamma = "text", 0.0
        return twin

    def _gamma(self, image_votes: Tensor, text_votes: Tensor) -> float | Tensor:
        if self.fusion == "confidence":
            image, text = (v.softmax(dim=-1).amax(dim=-1, keepdim=True) for v in (image_votes, text_votes))
            return image / (image + text)
        if self.fusion == "learned" and self.gamma_logit is not None:
            return torch.sigmoid(self.gamma_logit)
        return self.gamma


def projection_map(dim: int, low_dim: int, kind: Projection) -> nn.Module:
    """Return a bias-free map D → E: ``linear``, or ``mlp`` with a ReLU between, D → D/16 → E."""
    if kind == "linear":
        return nn.Linear(dim, low_dim, bias=False)
    inner = max(dim // 16, 1)
    return nn.Sequential(nn.Linear(dim, inner, bias=False), nn.ReLU(), nn.Linear(inner, low_dim, bias=False))


def unit_mean(difference: Tensor) -> Tensor:
    """Return ``(1 + d / mean d) / 2``: 1 on average, and never below one half."""
    return (1 + difference / global_mean(difference).clamp_min(1e-12)) / 2


def focal(difference: Tensor, losses: Tensor) -> Tensor:
    """Return ``d (1 − p)`` over its mean, p being the probability of the true class, ``exp(−loss)``."""
    weighted = difference * (1 - torch.exp(-losses))
    mean: Tensor = global_mean(weighted)
    return weighted / mean.clamp_min(1e-12)
