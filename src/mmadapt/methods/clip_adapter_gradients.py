"""Loss and gradients of stacked CLIP-Adapters written out: no graph, and no new memory from step to step."""

from __future__ import annotations

import torch
from torch import Tensor

from mmadapt.methods.base import Gradients

_through_relu = torch.ops.aten.threshold_backward.grad_input  # passes where the output is positive, in place


class Workspace:
    """Tensors that are overwritten from step to step; fresh ones would cost page faults on a CPU."""

    def __init__(self) -> None:
        """Start empty."""
        self._kept: dict[tuple[object, ...], Tensor] = {}

    def __call__(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """Return the tensor of a name and a shape, with what it held last."""
        key = (name, like.dtype, like.device, *shape)
        if key not in self._kept:
            self._kept[key] = like.new_empty(shape)
        return self._kept[key]


def visual_gradients(texts: Tensor, scale: float, ratio: float, final_relu: bool) -> Gradients:
    """Return the gradients of the image branch's cross-entropy; see `mmadapt.methods.clip_adapter`.

    The tensors returned are overwritten by the next call.

    Args:
        texts: Unit text features (C, D).
        scale: Factor s of the cosine.
        ratio: Residual ratio α.
        final_relu: Second ReLU.
    """
    space = Workspace()

    def gradients(
        weights: dict[str, Tensor], features: Tensor, labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        down, up = weights["down.weight"], weights["up.weight"]
        (runs, batch, dim), low, classes = features.shape, len(up.mT[0]), len(texts)
        hidden = torch.bmm(features, down.mT, out=space("hidden", features, runs, batch, low)).relu_()
        adapted = torch.bmm(hidden, up.mT, out=space("adapted", features, runs, batch, dim))
        adapted = adapted.relu_() if final_relu else adapted
        units = torch.mul(features, 1 - ratio, out=space("units", features, runs, batch, dim))
        units.add_(adapted, alpha=ratio)
        inverse = torch.linalg.vector_norm(units, dim=-1, keepdim=True).clamp_min_(1e-12).reciprocal_()
        units.mul_(inverse)
        slopes = space("slopes", features, runs * batch, classes)
        losses = _softmax(torch.mm(units.view(-1, dim), texts.mT, out=slopes).mul_(scale), labels)
        back = space("back", features, runs, batch, dim)  # with respect to the unit vectors
        torch.mm(slopes.mul_(scale / batch), texts, out=back.view(-1, dim))
        along = torch.mul(back, units, out=space("product", features, runs, batch, dim)).sum(-1, keepdim=True)
        back.addcmul_(units, along, value=-1).mul_(inverse.mul_(ratio))
        if final_relu:
            _through_relu(back, adapted, 0, grad_input=back)
        inner = torch.bmm(back, up, out=space("inner", features, runs, batch, low))
        _through_relu(inner, hidden, 0, grad_input=inner)
        return losses, {
            "down.weight": torch.bmm(inner.mT, features, out=space("down", down, *down.shape)),
            "up.weight": torch.bmm(back.mT, hidden, out=space("up", up, *up.shape)),
        }

    return gradients


def _softmax(logits: Tensor, labels: Tensor) -> Tensor:
    """Turn logits (R B, C) into softmax minus one-hot, in place; return the mean cross-entropies (R,)."""
    own = labels.reshape(-1, 1)
    logits.sub_(logits.amax(dim=-1, keepdim=True))
    picked = logits.gather(1, own)
    total = logits.exp_().sum(dim=-1, keepdim=True)
    logits.div_(total).scatter_add_(1, own, logits.new_full((1, 1), -1.0).expand_as(own))
    return (total.log_() - picked).view_as(labels).mean(dim=1)
