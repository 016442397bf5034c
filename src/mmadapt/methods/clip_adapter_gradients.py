"""Loss and gradients of stacked CLIP-Adapters written out: no graph, few passes over small tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from mmadapt.methods.base import Gradients

_through_relu = torch.ops.aten.threshold_backward  # the gradient where the output is positive, in one pass


def visual_gradients(texts: Tensor, scale: float, ratio: float, final_relu: bool) -> Gradients:
    """Return the gradients of the image branch's cross-entropy; see `mmadapt.methods.clip_adapter`.

    Args:
        texts: Unit text features (C, D).
        scale: Factor s of the cosine.
        ratio: Residual ratio α.
        final_relu: Second ReLU.
    """

    def gradients(
        weights: dict[str, Tensor], features: Tensor, labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        down, up = weights["down.weight"], weights["up.weight"]
        runs, batch, width = features.shape
        hidden = torch.bmm(features, down.mT).relu_()
        adapted = torch.bmm(hidden, up.mT)
        adapted = adapted.relu_() if final_relu else adapted
        units = (features * (1 - ratio)).add_(adapted, alpha=ratio)
        inverse = torch.linalg.vector_norm(units, dim=-1, keepdim=True).clamp_min_(1e-12).reciprocal_()
        units.mul_(inverse)
        logs = (units.view(-1, width) @ texts.mT).mul_(scale).log_softmax(dim=-1)
        own = labels.reshape(-1, 1)
        losses = -logs.gather(1, own).view(runs, batch).mean(dim=1)
        slopes = logs.exp_().scatter_add_(1, own, logs.new_full((1, 1), -1.0).expand_as(own))
        back = (slopes.mul_(scale / batch) @ texts).view_as(units)  # with respect to the unit vectors
        along = (back * units).sum(dim=-1, keepdim=True)
        back.addcmul_(units, along, value=-1).mul_(inverse.mul_(ratio))
        back = _through_relu(back, adapted, 0) if final_relu else back
        inner = _through_relu(torch.bmm(back, up), hidden, 0)
        return losses, {
            "down.weight": torch.bmm(inner.mT, features),
            "up.weight": torch.bmm(back.mT, hidden),
        }

    return gradients
