"""CLIP-Adapter (arXiv 2110.04544): a bottleneck on the image feature, blended with the feature itself."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmadapt.clip import ClipBackbone
from mmadapt.data.base import ClassSet
from mmadapt.errors import UserError
from mmadapt.methods.base import Method, scale_of
from mmadapt.methods.recipe import Recipe


def adapter_features(
    features: Tensor, down: Tensor, up: Tensor, ratio: float | Tensor, final_relu: bool = True
) -> Tensor:
    """Return ``n(ratio · A(f) + (1 − ratio) · f)`` with ``A(f) = ReLU(ReLU(f · downᵀ) · upᵀ)``.

    Args:
        features: Raw features (..., B, D); leading axes may stack runs.
        down: Weights (..., H, D).
        up: Weights (..., D, H).
        ratio: Residual ratio α, the share of the adapted feature.
        final_relu: Apply the second ReLU, as the released code does and the paper's equation does not.
    """
    adapted = torch.relu(features @ down.mT) @ up.mT
    adapted = torch.relu(adapted) if final_relu else adapted
    return F.normalize(ratio * adapted + (1 - ratio) * features, dim=-1)


class ClipAdapter(Method):
    """The visual adapter, the paper's default and best variant.

    The blend is on raw features, before normalising, as released: the adapter's share depends on their norm.
    """

    def __init__(
        self,
        clip: ClipBackbone,
        classes: ClassSet,
        *,
        ratio: float = 0.2,
        reduction: int = 4,
        final_relu: bool = True,
        logit_scale: float | None = None,
        text_features: Tensor | None = None,
        **recipe: Unpack[Recipe],
    ) -> None:
        """Build the bottleneck D → D/reduction → D, without biases.

        Args:
            clip: The frozen backbone.
            classes: Names and templates of the C classes.
            ratio: Residual ratio α in [0, 1]; 0 is zero-shot CLIP.
            reduction: Width D over the width of the bottleneck.
            final_relu: Second ReLU, as in the released code.
            logit_scale: Factor of the cosine; None is the model's own.
            text_features: Unit text features (C, D), if encoded before.
            recipe: See `Recipe`.

        Raises:
            UserError: If ratio or reduction is out of range.
        """
        super().__init__(clip, classes, text_features=text_features, **recipe)
        if not 0 <= ratio <= 1:
            raise UserError(
                f"method.ratio={ratio} must lie in [0, 1]: it is the share of the adapted feature."
            )
        if not 1 <= reduction <= clip.dim:
            raise UserError(
                f"method.reduction={reduction} must lie between 1 and the feature width {clip.dim}."
            )
        self.ratio, self.final_relu, self.scale = ratio, final_relu, scale_of(clip, logit_scale)
        self.down = nn.Linear(clip.dim, clip.dim // reduction, bias=False)
        self.up = nn.Linear(clip.dim // reduction, clip.dim, bias=False)

    def logits(self, image_features: Tensor) -> Tensor:
        """Return scaled cosines (B, C) of adapted image features and text features."""
        adapted = adapter_features(
            image_features, self.down.weight, self.up.weight, self.ratio, self.final_relu
        )
        return self.scale * adapted @ self.text_features.T
