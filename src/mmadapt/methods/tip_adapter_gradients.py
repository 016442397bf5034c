"""Loss and gradient of stacked Tip-Adapter-F caches written out: no graph, no product with one-hot labels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmadapt.methods.base import Gradients
from mmadapt.methods.clip_adapter_gradients import Workspace


def shots_per_class(labels: Tensor, classes: int) -> int:
    """Return K if labels are K times class 0, then K times class 1 and so on; 0 if they are anything else."""
    shots, rest = divmod(len(labels), classes)
    if rest or not shots:
        return 0
    expected = torch.arange(classes, device=labels.device).repeat_interleave(shots)
    return shots if torch.equal(labels, expected) else 0


def key_gradients(texts: Tensor, scale: float, alpha: float, beta: float, shots: int) -> Gradients:
    """Return the gradients of the cross-entropy of ``s · f Tᵀ + α · exp(−β (1 − f · keysᵀ)) · values``.

    What is returned is overwritten by the next call. With p the probabilities and e the affinities, the
    derivative by the cosine of query i and key n of class c is ``α β (p_ic − [y_i = c]) e_in / B``.

    Args:
        texts: Unit text features (C, D).
        scale: Factor s of the cosine.
        alpha: Residual ratio α.
        beta: Sharpness β.
        shots: Keys per class K; the keys are sorted by class.
    """
    space = Workspace()

    @torch.no_grad()
    def gradients(
        weights: dict[str, Tensor], features: Tensor, labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        keys = weights["cache_keys"]
        runs, batch, _ = features.shape
        queries = F.normalize(features, dim=-1)
        affinities = space("affinities", keys, runs, batch, keys.shape[1])
        torch.bmm(queries, keys.transpose(1, 2), out=affinities)
        affinities.sub_(1).mul_(beta).exp_()
        each = affinities.view(runs, batch, len(texts), shots)
        logits = (scale * queries @ texts.T).add_(each.sum(dim=-1), alpha=alpha)
        slopes = logits.log_softmax(dim=-1)
        own = labels[..., None]
        loss = -slopes.gather(-1, own).mean(dim=(1, 2))
        slopes.exp_().scatter_add_(-1, own, slopes.new_full((1, 1, 1), -1.0).expand(runs, batch, 1))
        each.mul_(slopes.mul_(alpha * beta / batch)[..., None])
        gradient = torch.bmm(affinities.transpose(1, 2), queries, out=space("keys", keys, *keys.shape))
        return loss, {"cache_keys": gradient}

    return gradients
