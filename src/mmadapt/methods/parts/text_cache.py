"""XMAdapter's text cache (arXiv 2404.12588), and the ratio by which its votes and an image cache's are fused."""

from __future__ import annotations

import copy
from typing import Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmadapt.errors import UserError, one_of
from mmadapt.methods.parts.xm_evidence import Evidence

Projection = Literal["linear", "mlp"]
"""One ``linear`` map, or ``mlp``: two with ReLU between, D → D/16 → E."""
Fusion = Literal["learned", "confidence", "fixed", "image", "text"]
"""γ ``learned``, as the sigmoid of one scalar; from each image's ``confidence``, c_I / (c_I + c_T) with c the highest
class probability that a cache's votes give; ``fixed``; or one cache alone, ``image`` or ``text``."""
EARLIER = {
    "img2txt.": "text_cache.img2txt.",
    "meta_net.": "text_cache.meta_net.",
    "text_beta": "text_cache.beta",
    "gamma_logit": "text_cache.gamma_logit",
}
"""What weights were called before they were part of a text cache."""


class TextCache(nn.Module):
    """Class texts and images in a low dimension E, and the share γ of the image cache beside them.

    Ours, where nothing could be read: unit length in the low dimension, E = D/4, one bias-free linear map each;
    both starting as the same orthonormal rows, the leading directions of the class texts, so that the affinities
    start as CLIP's own similarity; γ multiplying the image side.

    Attributes:
        img2txt: Img2TxtNet P_I, D → E.
        meta_net: MetaNet P_T, D → E.
        beta: Sharpness β_T.
        gamma_logit: γ before the sigmoid, if it is learned.
    """

    beta: Tensor

    def __init__(
        self, dim: int, low_dim: int | None, projection: Projection, fusion: Fusion, gamma: float, beta: float
    ) -> None:
        """Draw both maps; `align` starts them alike.

        Raises:
            UserError: If a word is unknown or a number out of range.
        """
        super().__init__()
        one_of("method.fusion", fusion, get_args(Fusion))
        one_of("method.projection", projection, get_args(Projection))
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
        self.img2txt = _projection(dim, low_dim, projection)
        self.meta_net = _projection(dim, low_dim, projection)
        if fusion == "learned":
            self.gamma_logit = nn.Parameter(torch.logit(torch.tensor(self.gamma)))

    @torch.no_grad()
    def align(self, texts: Tensor) -> None:
        """Start both maps alike; a linear one with the leading right singular vectors of the texts (C, D)."""
        if isinstance(self.img2txt, nn.Linear):
            basis = torch.linalg.svd(texts.double().cpu(), full_matrices=True).Vh
            self.img2txt.weight.copy_(basis[: self.img2txt.out_features])
        self.meta_net.load_state_dict(self.img2txt.state_dict())

    def forward(self, features: Tensor, texts: Tensor) -> Tensor:
        """Return the cosines (B, C) of unit image features (B, D) with the class texts (C, D)."""
        low_images = F.normalize(self.img2txt(features), dim=-1)
        low_texts = F.normalize(self.meta_net(texts), dim=-1)
        return low_images @ low_texts.T

    def votes(self, evidence: Evidence, image_beta: Tensor) -> Tensor:
        """Return the fused votes (B, C) of both caches, the image cache's of sharpness ``image_beta``."""
        return self.fuse(evidence.image_votes(image_beta), evidence.text_votes(self.beta))

    def fuse(self, image_votes: Tensor, text_votes: Tensor, gamma: float | None = None) -> Tensor:
        """Return ``γ · image_votes + (1 − γ) · text_votes``, by its own γ unless given."""
        share = self._gamma(image_votes, text_votes) if gamma is None else gamma
        return share * image_votes + (1 - share) * text_votes

    def _gamma(self, image_votes: Tensor, text_votes: Tensor) -> float | Tensor:
        if self.fusion == "confidence":
            image, text = (v.softmax(dim=-1).amax(dim=-1, keepdim=True) for v in (image_votes, text_votes))
            return image / (image + text)
        return torch.sigmoid(self.gamma_logit) if self.fusion == "learned" else self.gamma

    @torch.no_grad()
    def choose(self, beta: float, gamma: float | None) -> None:
        """Take β_T, and γ in place of the learned one if given."""
        self.beta.fill_(beta)
        if gamma is not None:  # the logit is ±inf at the ends: its sigmoid is exact
            self.gamma_logit.copy_(torch.logit(torch.tensor(gamma)))

    def alone(self) -> Self:
        """Return the same text cache without an image cache beside it (γ = 0)."""
        twin = copy.copy(self)
        twin.fusion = "text"
        twin.gamma = 0.0
        return twin


def _projection(dim: int, low_dim: int, kind: Projection) -> nn.Module:
    if kind == "linear":
        return nn.Linear(dim, low_dim, bias=False)
    inner = max(dim // 16, 1)
    return nn.Sequential(nn.Linear(dim, inner, bias=False), nn.ReLU(), nn.Linear(inner, low_dim, bias=False))
