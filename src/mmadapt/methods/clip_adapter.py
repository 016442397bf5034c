"""CLIP-Adapter (arXiv 2110.04544): bottlenecks on image and text features, blended with the features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Unpack, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmadapt.clip import ClipBackbone
from mmadapt.data.base import ClassSet
from mmadapt.errors import UserError, one_of
from mmadapt.features.encoder import FeatureSet
from mmadapt.methods.base import Batch, Method
from mmadapt.methods.parts.frozen_clip import scale_of
from mmadapt.methods.parts.recipe import Recipe

Branch = Literal["visual", "text", "both"]


def adapter_features(
    features: Tensor, down: Tensor, up: Tensor, ratio: float | Tensor, final_relu: bool = True
) -> Tensor:
    """Return ``n(ratio · A(f) + (1 − ratio) · f)`` with ``A(f) = ReLU(ReLU(f · downᵀ) · upᵀ)``.

    Args:
        features: Raw features (..., B, D); leading axes may stack runs.
        down: Weights (..., H, D).
        up: Weights (..., D, H).
        ratio: Residual ratio α, the share of the adapted feature; a number or (..., 1, 1).
        final_relu: Apply the second ReLU, as the released code does and the paper's equation does not.
    """
    adapted = torch.relu(features @ down.mT) @ up.mT
    adapted = torch.relu(adapted) if final_relu else adapted
    return F.normalize(ratio * adapted + (1 - ratio) * features, dim=-1)


class ClipAdapter(Method):
    """A bottleneck per branch: ``f' = α A_v(f) + (1 − α) f``, ``T' = β A_t(T) + (1 − β) T``, then cosines.

    From the paper (§3, §4): the three branches, the bottleneck of width D/4 without biases, the blend before
    normalising, α searched per data set. From the released code (image branch only): the second ReLU.
    Ours: the paper predicts learned α and β by a network that is described nowhere, here ``learn_ratio``
    makes each a scalar; ``ratio_grid`` trains one adapter per ratio side by side, from the same initial weights
    on the same batches, and keeps the best on val, where the paper reports the best of its search space.

    Attributes:
        down: Image bottleneck D → D/reduction (branches visual and both).
        up: Image bottleneck D/reduction → D.
        text_down: Text bottleneck D → D/reduction (branches text and both).
        text_up: Text bottleneck D/reduction → D.
        ratios: Residual ratios α of the R adapters trained side by side, (R,); R = 1 without a grid.
        ratio_logit: Learned α before the sigmoid, if ``learn_ratio``; text_ratio_logit likewise for β.
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
            clip: The frozen backbone.
            classes: Names and templates of the C classes.
            branch: Which features are adapted.
            ratio: Residual ratio α in [0, 1]; 0 is zero-shot CLIP.
            text_ratio: Residual ratio β of the text branch; None takes α, also α of the grid.
            ratio_grid: Values of α to choose from on val; replaces ``ratio``.
            learn_ratio: Learn α and β, starting at ``ratio`` and ``text_ratio``.
            reduction: Width D over the width of the bottleneck.
            final_relu: Second ReLU, as in the released code.
            logit_scale: Factor of the cosine; None is the model's own.
            text_features: Unit text features (C, D), if encoded before.
            recipe: See `Recipe`.

        Raises:
            UserError: If a value is out of range, or the ratio is to be learned and searched at once.
        """
        super().__init__(clip, classes, text_features=text_features, **recipe)
        one_of("method.branch", branch, get_args(Branch))
        grid = [ratio] if ratio_grid is None else [float(value) for value in ratio_grid]
        _check_ratios(grid, text_ratio, learn_ratio, ratio_grid is not None, self.selection)
        if not 1 <= reduction <= clip.dim:
            raise UserError(
                f"method.reduction={reduction} must lie between 1 and the feature width {clip.dim}."
            )
        self.branch, self.ratio, self.text_ratio, self.final_relu = branch, grid[0], text_ratio, final_relu
        self.scale = scale_of(clip, logit_scale)
        self.register_buffer("ratios", torch.tensor(grid), persistent=ratio_grid is not None)
        for side in [""] * (branch != "text") + ["text_"] * (branch != "visual"):
            self.add_module(f"{side}down", nn.Linear(clip.dim, clip.dim // reduction, bias=False))
            self.add_module(f"{side}up", nn.Linear(clip.dim // reduction, clip.dim, bias=False))
            if learn_ratio:
                start = ratio if not side or text_ratio is None else text_ratio
                logit = nn.Parameter(torch.logit(torch.tensor(float(start))))
                self.register_parameter(f"{side}ratio_logit", logit)
        if len(grid) > 1:
            for layer in self._layers():
                layer.weight = nn.Parameter(layer.weight.detach().expand(len(grid), -1, -1).clone())

    def logits(self, image_features: Tensor) -> Tensor:
        """Return scaled cosines (B, C); of the first ratio of a grid until `search` has chosen one."""
        stacked = self._stacked_logits(image_features)
        return stacked[0] if stacked.ndim == 3 else stacked

    def loss(self, batch: Batch) -> Tensor:
        """Return the cross-entropy, summed over adapters trained side by side: their gradients do not mix."""
        inputs, labels = batch
        features = self.clip.encode_image(inputs) if inputs.ndim == 4 else inputs
        logits = self._stacked_logits(features)
        if logits.ndim == 2:
            return F.cross_entropy(logits, labels)
        runs = len(logits)
        return runs * F.cross_entropy(logits.flatten(0, 1), labels.repeat(runs))

    @torch.no_grad()
    def search(self, val: FeatureSet) -> None:
        """Keep the adapter whose ratio is best on val, the first of equals; note learned ratios."""
        if len(self.ratios) > 1:
            hits = self._stacked_logits(val.image_features[0]).argmax(dim=-1) == val.labels
            best = int(hits.sum(dim=-1).argmax())
            self._keep(self.ratios[best : best + 1])
            for layer in self._layers():
                layer.weight = nn.Parameter(layer.weight[best].clone())
            self.tuned = {"ratio": self.ratio}
        for name, logit in self.named_parameters(recurse=False):
            self.tuned[name.removesuffix("_logit")] = float(logit.sigmoid())

    def _layers(self) -> list[nn.Linear]:
        return [layer for layer in self.children() if isinstance(layer, nn.Linear)]

    def _ratio(self, side: str) -> Tensor | float:
        learned = getattr(self, f"{side}ratio_logit", None)
        if learned is not None:
            return torch.sigmoid(learned)
        if side and self.text_ratio is not None:
            return self.text_ratio
        return self.ratios[:, None, None] if len(self.ratios) > 1 else self.ratio

    def _keep(self, ratio: Tensor) -> None:
        self.ratios, self.ratio = ratio.detach().clone().to(self.ratios), float(ratio)

    def _adapt(self, side: str, features: Tensor) -> Tensor:
        if not hasattr(self, f"{side}down"):
            return F.normalize(features, dim=-1)
        down, up = getattr(self, f"{side}down"), getattr(self, f"{side}up")
        return adapter_features(features, down.weight, up.weight, self._ratio(side), self.final_relu)

    def _stacked_logits(self, image_features: Tensor) -> Tensor:
        """Return logits (R, B, C) of the R adapters of a grid, or (B, C)."""
        texts = self._adapt("text_", self.text_features) if self.branch != "visual" else self.text_features
        return self.scale * self._adapt("", image_features) @ texts.mT

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: object) -> None:
        """Take over one chosen adapter where a grid is waiting for its search."""
        stored = state_dict.get(prefix + "ratios")
        if stored is not None and len(stored) == 1 and len(self.ratios) > 1:
            self._keep(stored)
            for layer in self._layers():
                layer.weight = nn.Parameter(layer.weight[0].detach().clone())
        super()._load_from_state_dict(state_dict, prefix, *args)


def _check_ratios(
    grid: Sequence[float], text_ratio: float | None, learn: bool, search: bool, selection: str
) -> None:
    if not grid:
        raise UserError("method.ratio_grid is empty: give values in [0, 1], for example [0.2,0.4,0.6,0.8].")
    for value in [*grid, *([] if text_ratio is None else [text_ratio])]:
        if not 0 <= value <= 1:
            raise UserError(
                f"method.ratio={value} must lie in [0, 1]: it is the share of the adapted feature."
            )
        if learn and not 0 < value < 1:
            raise UserError(f"method.ratio={value} cannot be learned from there: start inside (0, 1).")
    if learn and search:
        raise UserError("method.learn_ratio=true and method.ratio_grid exclude each other; set one of them.")
    if search and selection == "best_val":
        raise UserError(
            "method.ratio_grid chooses the ratio on val and method.selection=best_val the epoch; "
            "use selection=last with a grid."
        )
