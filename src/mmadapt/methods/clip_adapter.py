"""CLIP-Adapter (arXiv 2110.04544): bottlenecks on image and text features, blended with the features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Unpack, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from mmadapt.clip import ClipBackbone
from mmadapt.data.base import ClassSet
from mmadapt.errors import UserError, one_of
from mmadapt.features.encoder import FeatureSet
from mmadapt.methods.base import Batch, Method
from mmadapt.methods.parts.bottleneck import Bottleneck, Bottlenecks, check_ratios
from mmadapt.methods.parts.frozen_clip import renamed, scale_of
from mmadapt.methods.parts.recipe import Recipe

Branch = Literal["visual", "text", "both"]
_EARLIER = {
    "down.": "adapters.image.down.",
    "up.": "adapters.image.up.",
    "ratio_logit": "adapters.image.ratio_logit",
    "text_down.": "adapters.text.down.",
    "text_up.": "adapters.text.up.",
    "text_ratio_logit": "adapters.text.ratio_logit",
}
"""What weights were called before they were parts of a bottleneck."""


class ClipAdapter(Method):
    """A bottleneck per branch: ``f' = α A_v(f) + (1 − α) f``, ``T' = β A_t(T) + (1 − β) T``, then cosines.

    From the paper (§3, §4): the three branches, the bottleneck of width D/4 without biases, the blend before
    normalising, α searched per data set. From the released code (image branch only): the second ReLU.
    Ours: the paper predicts learned α and β by a network that is described nowhere, here ``learn_ratio``
    makes each a scalar; ``ratio_grid`` trains one adapter per ratio side by side, from the same initial weights
    on the same batches, and keeps the best on val, where the paper reports the best of its search space.

    Attributes:
        adapters: `Bottleneck` of ``image`` (branches visual and both) and of ``text`` (text and both).
        ratios: Residual ratios α of the R adapters trained side by side, (R,); R = 1 without a grid.
    """

    ratios: Tensor

    def __init__(
        self,
        clip: ClipBackbone,
        classes: ClassSet,
        *,
        branch: Branch = "visual",
        ratio: float = 0.2,
        text_ratio: float | None = None,
        ratio_grid: Sequence[float] | None = None,
        learn_ratio: bool = False,
        reduction: int = 4,
        final_relu: bool = True,
        logit_scale: float | None = None,
        text_features: Tensor | None = None,
        **recipe: Unpack[Recipe],
    ) -> None:
        """Build the bottlenecks D → D/reduction → D, without biases, for any feature width D.

        Args:
            branch: Which features are adapted.
            ratio: Residual ratio α in [0, 1]; 0 is zero-shot CLIP.
            text_ratio: Residual ratio β of the text branch; None takes α, also α of the grid.
            ratio_grid: Values of α to choose from on val; replaces ``ratio``.
            learn_ratio: Learn α and β, starting at ``ratio`` and ``text_ratio``.
            reduction: Width D over the width of the bottleneck.
            final_relu: Second ReLU, as in the released code.
            logit_scale: Factor of the cosine; None is the model's own.

        Raises:
            UserError: If a value is out of range, or the ratio is to be learned and searched at once.
        """
        super().__init__(clip, classes, text_features=text_features, **recipe)
        one_of("method.branch", branch, get_args(Branch))
        grid = [ratio] if ratio_grid is None else [float(value) for value in ratio_grid]
        check_ratios(grid, text_ratio, learn_ratio, ratio_grid is not None, self.selection)
        if not 1 <= reduction <= clip.dim:
            raise UserError(
                f"method.reduction={reduction} must lie between 1 and the feature width {clip.dim}."
            )
        self.scale = scale_of(clip, logit_scale)
        self.register_buffer("ratios", torch.tensor(grid), persistent=ratio_grid is not None)
        own = {"image": grid[0], "text": grid[0] if text_ratio is None else text_ratio}
        self.adapters = Bottlenecks()
        for side in ["image"] * (branch != "text") + ["text"] * (branch != "visual"):
            self.adapters[side] = Bottleneck(
                clip.dim, clip.dim // reduction, own[side], learn_ratio, final_relu
            )
        if len(grid) > 1:
            self.adapters.stack(len(grid), one_ratio=() if text_ratio is None else ("text",))

    def logits(self, image_features: Tensor) -> Tensor:
        """Return scaled cosines (B, C); of the first ratio of a grid until `search` has chosen one."""
        stacked = self.stacked_logits(image_features)
        return stacked[0] if stacked.ndim == 3 else stacked

    def stacked_logits(self, image_features: Tensor) -> Tensor:
        """Return logits (R, B, C) of the R adapters of a grid, or (B, C)."""
        images, texts = F.normalize(image_features, dim=-1), self.text_features
        if "image" in self.adapters:
            images = self.adapters["image"](image_features, self.ratios)
        if "text" in self.adapters:
            texts = self.adapters["text"](texts, self.ratios)
        return self.scale * images @ texts.mT

    def loss(self, batch: Batch) -> Tensor:
        """Return the cross-entropy, summed over adapters trained side by side: their gradients do not mix."""
        inputs, labels = batch
        features = self.clip.encode_image(inputs) if inputs.ndim == 4 else inputs
        logits = self.stacked_logits(features)
        if logits.ndim == 2:
            return F.cross_entropy(logits, labels)
        runs = len(logits)
        return runs * F.cross_entropy(logits.flatten(0, 1), labels.repeat(runs))

    @torch.no_grad()
    def search(self, val: FeatureSet) -> None:
        """Keep the adapter whose ratio is best on val, the first of equals; note learned ratios."""
        if len(self.ratios) > 1:
            hits = self.stacked_logits(val.image_features[0]).argmax(dim=-1) == val.labels
            self._keep(int(hits.sum(dim=-1).argmax()), self.ratios)
            self.tuned = {"ratio": float(self.ratios)}
        names = {"image": "ratio", "text": "text_ratio"}
        self.tuned |= {names[side]: ratio for side, ratio in self.adapters.learned_ratios().items()}

    def _keep(self, place: int, ratios: Tensor) -> None:
        self.ratios = ratios[place : place + 1].detach().clone().to(self.ratios)
        self.adapters.keep(place, float(self.ratios))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: object) -> None:
        """Take over earlier names, and one chosen adapter where a grid is waiting for its search."""
        renamed(state_dict, prefix, _EARLIER)
        stored = state_dict.get(prefix + "ratios")
        if stored is not None and len(stored) == 1 and len(self.ratios) > 1:
            self._keep(0, stored)
        super()._load_from_state_dict(state_dict, prefix, *args)
