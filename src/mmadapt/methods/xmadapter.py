"""XMAdapter (arXiv 2404.12588): Tip-Adapter's image cache beside a text cache, fused by a learned ratio."""

from __future__ import annotations

from pathlib import Path
from typing import Self, Unpack, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from mmadapt.clip import ClipBackbone
from mmadapt.data.base import ClassSet
from mmadapt.errors import one_of
from mmadapt.features.encoder import FeatureSet
from mmadapt.methods.base import Batch
from mmadapt.methods.parts.cache import CacheOptions
from mmadapt.methods.parts.coop_texts import TextSource, coop_text_features
from mmadapt.methods.parts.frozen_clip import renamed
from mmadapt.methods.parts.text_cache import EARLIER, Fusion, Projection, TextCache
from mmadapt.methods.parts.xm_evidence import Evidence, HardWeight, hard_weights
from mmadapt.methods.parts.xm_search import search_by_turns
from mmadapt.methods.tip_adapter import TipAdapter


class XMAdapter(TipAdapter):
    """``logits = s · n(f) · Tᵀ + α · (γ A_I + (1 − γ) A_T) · values``.

    ``A_I = exp(−β (1 − n(f) · keysᵀ))`` are the affinities to the cached shots. ``A_T = exp(−β_T (1 − cos))``
    compares ``n(P_I f)`` with ``n(P_T t_y)`` for the label y of each shot, P_I and P_T being linear maps to a low
    dimension E; the shots of a class share it, so it is computed once per class and counted N_y times.
    ``fusion=image hard_weight=none`` is Tip-Adapter-F to the last bit. Caches hold the trained classes alone.

    There is no public code, and of the paper only the abstract and accounts of its method could be read.
    From the paper: the two caches, the two maps (Img2TxtNet P_I, MetaNet P_T), CoOp's features as their text
    side, the weighted sum of the affinities with an adaptive ratio, and a learning intensity that grows with
    the difference of the two affinities. Ours: the exponential form of A_T with a sharpness of its own; what
    `TextCache` and `hard_weights` say; the zero-shot term's texts being those of the text cache; the recipe,
    which is Tip-Adapter-F's; α, β, β_T and γ searched on val after training.
    """

    def __init__(
        self,
        clip: ClipBackbone,
        classes: ClassSet,
        *,
        alpha: float = 1.17,
        beta: float = 1.0,
        text_beta: float | None = None,
        fusion: Fusion = "learned",
        gamma: float = 0.5,
        hard_weight: HardWeight = "class",
        low_dim: int | None = None,
        projection: Projection = "linear",
        training_free: bool = False,
        text_source: TextSource = "template",
        coop_run: str | Path | None = None,
        **cache: Unpack[CacheOptions],
    ) -> None:
        """Build the maps; the image cache is built by `adapt`.

        Args:
            text_beta: Sharpness β_T of the text affinities before the search; None is ``beta``.
            fusion: Where γ comes from, see `Fusion`.
            gamma: γ of ``fixed``, start of ``learned``, in [0, 1].
            hard_weight: What weights an image's loss, see `HardWeight`.
            low_dim: E; None is D/4.
            projection: Kind of both maps, see `Projection`.
            training_free: Freeze everything; use with ``epochs=0``.
            text_source: Texts from the classes' templates, or of a finished CoOp run.
            coop_run: Folder of that run; the command makes it if it is missing, and gives it here.
            cache: See `TipAdapter`; the grid of β is also that of β_T.

        Raises:
            UserError: If a word is unknown or a number out of range.
        """
        super().__init__(clip, classes, alpha=alpha, beta=beta, **cache)
        one_of("method.hard_weight", hard_weight, get_args(HardWeight))
        one_of("method.text_source", text_source, get_args(TextSource))
        self.hard_weight = hard_weight
        self.text_source = text_source
        self.coop_run = coop_run
        text_beta = beta if text_beta is None else text_beta
        self.text_cache = TextCache(clip.dim, low_dim, projection, fusion, gamma, text_beta)
        if text_source == "coop":  # these texts cannot be encoded again from the class names
            self.register_buffer("text_features", self.text_features)
            self.transfer = "none"  # the maps were trained with texts that exist for these classes only
        self.text_cache.align(self.text_features)
        self.trains_keys = fusion != "text" and not training_free  # nothing without effect is trained
        self.cache_keys.requires_grad_(self.trains_keys)
        self.text_cache.requires_grad_(fusion != "image" and not training_free)

    def adapt(self, support: FeatureSet, val: FeatureSet) -> None:
        """Build the image cache, and take the texts of the CoOp run if asked to."""
        super().adapt(support, val)
        if self.text_source == "coop":
            self.text_features.copy_(coop_text_features(self.clip, self.classes, self.coop_run))
            self.text_cache.align(self.text_features)

    def text_side(self, classes: ClassSet, text_features: Tensor) -> Self:
        """Return zero-shot logits plus the votes of a text cache of these classes alone (γ = 0).

        Ours, the paper defines nothing: each class counts as often as a trained one, so that α keeps its meaning.
        """
        twin = super().text_side(classes, text_features)
        shots = int(torch.bincount(self.cache_labels, minlength=1).max())
        labels = torch.arange(len(classes), device=self.cache_labels.device).repeat_interleave(shots)
        twin._set_cache(self.cache_keys.new_zeros(len(labels), self.cache_keys.shape[1]), labels)
        twin.text_cache = self.text_cache.alone()
        return twin

    def logits(self, image_features: Tensor) -> Tensor:
        """Return zero-shot logits plus the fused votes of both caches (B, C)."""
        evidence = self.evidence(image_features)
        return evidence.zero_shot + self.alpha * self.text_cache.votes(evidence, self.beta)

    def evidence(self, image_features: Tensor) -> Evidence:
        """Return the cosines of raw image features (B, D) with texts and both caches."""
        features = F.normalize(image_features, dim=-1)
        zero_shot = self.scale * features @ self.text_features.T
        text_cosines = self.text_cache(features, self.text_features)
        return Evidence(zero_shot, features @ self.cache_keys.T, text_cosines, self.cache_labels)

    def loss(self, batch: Batch) -> Tensor:
        """Return the cross-entropy, weighted towards images on which the two caches disagree."""
        if self.hard_weight == "none":
            return super().loss(batch)
        inputs, labels = batch
        evidence = self.evidence(self.clip.encode_image(inputs) if inputs.ndim == 4 else inputs)
        logits = evidence.zero_shot + self.alpha * self.text_cache.votes(evidence, self.beta)
        each = F.cross_entropy(logits, labels, reduction="none")
        weights = hard_weights(self.hard_weight, evidence, labels, each, self.beta, self.text_cache.beta)
        return (weights * each).mean()

    @torch.no_grad()
    def search(self, val: FeatureSet) -> None:
        """Choose α and β on val, then α and β_T, then α and a learned γ; later steps must be strictly better."""
        if self.search_scale is not None and len(val.labels):
            evidence = self.evidence(val.image_features[0])
            found = search_by_turns(evidence, val.labels, self.text_cache, self.alphas, self.betas)
            self.alpha.fill_(found.alpha)
            self.beta.fill_(found.beta)
            self.text_cache.choose(found.text_beta, found.gamma)
            self.tuned = found.tuned()
        if self.text_cache.fusion == "learned":
            self.tuned.setdefault("gamma", float(self.text_cache.gamma_logit.sigmoid()))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: object) -> None:
        renamed(state_dict, prefix, EARLIER)
        super()._load_from_state_dict(state_dict, prefix, *args)
