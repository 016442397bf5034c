"""Tip-Adapter and Tip-Adapter-F (arXiv 2111.03930): a key-value cache of the shots beside zero-shot CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self, Unpack, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmadapt.clip import ClipBackbone
from mmadapt.data.base import ClassSet
from mmadapt.errors import one_of
from mmadapt.features.encoder import FeatureSet
from mmadapt.methods.base import Method
from mmadapt.methods.parts.cache import SearchAlpha, search_grids, shots_per_class
from mmadapt.methods.parts.cache_search import class_affinities, search_alpha_beta, search_exact_alpha
from mmadapt.methods.parts.frozen_clip import scale_of
from mmadapt.methods.parts.recipe import Recipe
from mmadapt.methods.transfer import Transfer


class TipAdapter(Method):
    """``logits = s · n(f) · Tᵀ + α · exp(−β (1 − n(f) · keysᵀ)) · values``.

    Keys: the raw features of each shot averaged over its views, normalised once. Values: one-hot labels. The
    residual ratio α and the sharpness β are searched on val; the released code searches ImageNet's on test.

    Attributes:
        cache_keys: Unit features of the shots, (N, D).
        cache_labels: Their classes, (N,).
        shots_per_class: Their number per class if it is equal and they are sorted by class, else 0.
    """

    transfer: Transfer = "text_only"
    trains_keys: bool = False
    cache_labels: Tensor
    alpha: Tensor
    beta: Tensor

    def __init__(
        self,
        clip: ClipBackbone,
        classes: ClassSet,
        *,
        alpha: float = 1.0,
        beta: float = 5.5,
        search_scale: Sequence[float] | None = (7.0, 3.0),
        search_step: Sequence[int] = (200, 20),
        search_alpha: SearchAlpha = "grid",
        logit_scale: float | None = None,
        text_features: Tensor | None = None,
        **recipe: Unpack[Recipe],
    ) -> None:
        """Bind the backbone; the cache is built by `adapt`.

        Args:
            alpha: Residual ratio α before the search.
            beta: Sharpness β before the search.
            search_scale: Upper ends of the grid of β and α, not included; None keeps the two as given.
            search_step: Number of grid points of β and of α, from 0.1 upwards.
            search_alpha: ``grid``: the released grid of α. ``exact``: the optimum over all real α up to the upper
                end, for each β of the grid; the midpoint of the widest stretch of α with most val images right.
            logit_scale: Factor s of the cosine; None is the model's own, the released code has 100.

        Raises:
            UserError: If the search grid is empty or ``search_alpha`` unknown.
        """
        super().__init__(clip, classes, text_features=text_features, **recipe)
        one_of("method.search_alpha", search_alpha, get_args(SearchAlpha))
        self.search_scale = search_scale
        self.betas, self.alphas = search_grids(search_scale, search_step)
        self.search_alpha = search_alpha
        self.scale = scale_of(clip, logit_scale)
        self.register_buffer("alpha", torch.tensor(float(alpha)))
        self.register_buffer("beta", torch.tensor(float(beta)))
        self.register_buffer("cache_labels", torch.empty(0, dtype=torch.long))
        self._set_cache(torch.empty(0, clip.dim), self.cache_labels)

    def adapt(self, support: FeatureSet, val: FeatureSet) -> None:
        """Build the cache from the shots, sorted by class."""
        order = support.labels.argsort(stable=True)
        keys = F.normalize(support.image_features.mean(dim=0), dim=-1)[order]
        self._set_cache(keys, support.labels[order])

    def _set_cache(self, keys: Tensor, labels: Tensor) -> None:
        self.cache_keys = nn.Parameter(keys.clone(), requires_grad=self.trains_keys)
        self.cache_labels = labels.clone()
        self.shots_per_class = shots_per_class(labels, len(self.classes))

    def text_side(self, classes: ClassSet, text_features: Tensor) -> Self:
        """Return zero-shot CLIP: with no shot of these classes the cache has no vote."""
        twin = self.for_classes(classes, text_features)
        twin._parameters = dict(self._parameters)
        twin._set_cache(self.cache_keys[:0], self.cache_labels[:0])
        return twin

    def logits(self, image_features: Tensor) -> Tensor:
        """Return zero-shot logits plus the cache's vote (B, C)."""
        features = F.normalize(image_features, dim=-1)
        zero_shot = self.scale * features @ self.text_features.T
        cosines = features @ self.cache_keys.T
        votes = class_affinities(
            cosines, self.cache_labels, len(self.classes), self.beta, self.shots_per_class
        )
        return zero_shot + self.alpha * votes

    @torch.no_grad()
    def search(self, val: FeatureSet) -> None:
        """Choose α and β by accuracy on val, over the released grid or over the real α."""
        if self.search_scale is None or not len(val.labels):
            return
        features = F.normalize(val.image_features[0], dim=-1)
        zero_shot = self.scale * features @ self.text_features.T
        evidence = zero_shot, features @ self.cache_keys.T, self.cache_labels, val.labels
        if self.search_alpha == "exact":
            best = search_exact_alpha(*evidence, self.search_scale[1], self.betas)
        else:
            best = search_alpha_beta(*evidence, self.alphas, self.betas)
        self.alpha.fill_(best.alpha)
        self.beta.fill_(best.beta)
        self.tuned = {"alpha": best.alpha, "beta": best.beta}

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: object) -> None:
        """Take over a cache of another size than the present one."""
        stored = state_dict.get(prefix + "cache_keys")
        # A cache of equal size stays the tensor that the optimiser holds.
        if stored is not None and stored.shape != self.cache_keys.shape:
            labels = state_dict[prefix + "cache_labels"]
            self._set_cache(stored.to(self.cache_keys.device), labels.to(self.cache_keys.device))
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.shots_per_class = shots_per_class(self.cache_labels, len(self.classes))


class TipAdapterF(TipAdapter):
    """Tip-Adapter whose keys are learned; values, text features and CLIP stay frozen.

    The keys start as Tip-Adapter's and are not normalised again, as released. Training runs with the α and β
    of the configuration; the search on val comes after it. Deviations: the released code keeps the epoch that
    is best on *test*, here it is the best on val; it trains in fp16, here keys are fp32 with its eps of 1e-4;
    it augments afresh each epoch, here the cached views are cycled through.
    """

    trains_keys = True
