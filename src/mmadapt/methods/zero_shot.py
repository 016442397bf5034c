"""Zero-shot CLIP (arXiv 2103.00020): the class whose text feature is nearest. The smallest method."""

from __future__ import annotations

from typing import ClassVar, Unpack

from torch import Tensor
from torch.nn import functional as F

from mmadapt.clip import ClipBackbone
from mmadapt.data.base import ClassSet
from mmadapt.methods.base import Method
from mmadapt.methods.parts.frozen_clip import scale_of
from mmadapt.methods.parts.recipe import Recipe


class ZeroShot(Method):
    """``logits = s · n(f) · Tᵀ`` with image feature f and unit text features T (C, D)."""

    uses_shots: ClassVar[bool] = False

    def __init__(
        self,
        clip: ClipBackbone,
        classes: ClassSet,
        *,
        text_features: Tensor | None = None,
        logit_scale: float | None = None,
        **recipe: Unpack[Recipe],
    ) -> None:
        """Bind the backbone.

        Args:
            clip: The frozen backbone.
            classes: Names and templates of the C classes.
            text_features: Unit text features (C, D), if encoded before.
            logit_scale: Factor s; None is the model's own. It moves NLL and ECE, not the accuracy.
            recipe: See `Recipe`.
        """
        super().__init__(clip, classes, text_features=text_features, **recipe)
        self.scale = scale_of(clip, logit_scale)

    def logits(self, image_features: Tensor) -> Tensor:
        """Return scaled cosines (B, C)."""
        return self.scale * F.normalize(image_features, dim=-1) @ self.text_features.T
