"""XMAdapter (arXiv 2404.12588): Tip-Adapter's image cache beside a text cache, fused by a learned ratio."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal, Self, Unpack, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from mmadapt.clip import ClipBackbone
from mmadapt.data.base import ClassSet
from mmadapt.errors import one_of
from mmadapt.features.encoder import FeatureSet
from mmadapt.methods.base import Batch
from mmadapt.methods.parts.cache import search_grid
from mmadapt.methods.parts.cache_search import class_affinities
from mmadapt.methods.parts.coop_texts import coop_text_features
from mmadapt.methods.parts.frozen_clip import renamed
from mmadapt.methods.parts.recipe import Recipe
from mmadapt.methods.parts.text_cache import Evidence, Fusion, Projection, TextCache, focal, unit_mean
from mmadapt.methods.parts.xm_search import search_fused
from mmadapt.methods.tip_adapter import TipAdapter

HardWeight = Literal["class", "all", "focal", "none"]
TextSource = Literal["template", "coop"]
_EARLIER = {
    "img2txt.": "text_cache.img2txt.",
    "meta_net.": "text_cache.meta_net.",
    "text_beta": "text_cache.beta",
    "gamma_logit": "text_cache.gamma_logit",
}
"""What weights were called before they were part of a text cache."""


class XMAdapter(TipAdapter):
    """``logits = s · n(f) · Tᵀ + α · (γ A_I + (1 − γ) A_T) · values``.

    ``A_I = exp(−β (1 − n(f) · keysᵀ))`` are the affinities to the cached shots. ``A_T = exp(−β_T (1 − cos))``
    compares ``n(P_I f)`` with ``n(P_T t_y)`` for the label y of each shot, P_I and P_T being linear maps to a low
    dimension E; the shots of a class share it, so it is computed once per class and counted N_y times.

    There is no public code, and of the paper only the abstract and accounts of its method could be read.
    From the paper: the two caches, the two maps (Img2TxtNet P_I, MetaNet P_T), CoOp's features as their text
    side, the weighted sum of the affinities with an adaptive ratio, and a learning intensity that grows with
    the difference of the two affinities. Ours: the exponential form of A_T with a sharpness of its own; unit
    length in the low dimension, E = D/4, one bias-free linear map each; both maps starting as the same
    orthonormal rows, the leading directions of the class texts, so that A_T starts as CLIP's own similarity;
    γ multiplying the image side, as the sigmoid of one scalar or from each image's confidences; the weights
    ``(1 + d / mean d) / 2`` of the loss; the texts of the zero-shot term being those of the text cache; the
    recipe, which is Tip-Adapter-F's; α, β, β_T and γ searched on val after training.

    With ``fusion=image hard_weight=none`` (γ = 1) this is Tip-Adapter-F to the last bit. With γ = 0 the cache
    votes N_y times one affinity for each class. The caches hold the classes that were trained on, no others.

    Attributes:
        text_cache: P_I, P_T, β_T and γ.
    """

    trains_keys: ClassVar[bool] = True

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
        projection: Literal["linear", "mlp"] = "linear",
        training_free: bool = False,
        text_source: TextSource = "template",
        coop_run: str | Path | None = None,
        search_scale: Sequence[float] | None = (7.0, 3.0),
        search_step: Sequence[int] = (200, 20),
        logit_scale: float | None = None,
        text_features: Tensor | None = None,
        **recipe: Unpack[Recipe],
    ) -> None:
        """Build the maps; the image cache is built by `adapt`.

        Args:
            alpha: Residual ratio α before the search.
            beta: Sharpness β of the image affinities before the search.
            text_beta: Sharpness β_T of the text affinities before the search; None is ``beta``.
            fusion: γ ``learned``; from each image's ``confidence``, c_I / (c_I + c_T) with c the highest class
                probability that a cache's votes give; ``fixed``; or one cache alone, ``image`` or ``text``.
            gamma: γ of ``fixed``, start of ``learned``, in [0, 1].
            hard_weight: Difference d of the affinities by which an image's loss is weighted: between their means
                over the shots of its ``class``; mean difference over ``all`` shots; ``focal``: the first
                times (1 − p) of its class; or ``none``.
            low_dim: E; None is D/4.
            projection: One ``linear`` map, or ``mlp``: two with ReLU between, D → D/16 → E.
            training_free: Freeze everything; use with ``epochs=0``.
            text_source: Texts from the classes' templates, or of a finished CoOp run.
            coop_run: Folder of that run; the command makes it if it is missing, and gives it here.
            search_scale: Upper ends of the grid of β (and β_T) and α, not included; None searches nothing.
            search_step: Number of grid points of β (and β_T) and of α, from 0.1 upwards.
            logit_scale: Factor s of the cosine; None is the model's own.

        Raises:
            UserError: If a word is unknown or a number out of range.
        """
        super().__init__(
            clip,
            classes,
            alpha=alpha,
            beta=beta,
            search_scale=search_scale,
            search_step=search_step,
            logit_scale=logit_scale,
            text_features=text_features,
            **recipe,
        )
        one_of("method.fusion", fusion, get_args(Fusion))
        one_of("method.hard_weight", hard_weight, get_args(HardWeight))
        one_of("method.projection", projection, get_args(Projection))
        one_of("method.text_source", text_source, get_args(TextSource))
        self.hard_weight, self.training_free = hard_weight, training_free
        self.text_source, self.coop_run = text_source, coop_run
        text_beta = beta if text_beta is None else text_beta
        self.text_cache = TextCache(clip.dim, low_dim, projection, text_beta, fusion, gamma)
        if text_source == "coop":  # these texts cannot be encoded again from the class names
            self.register_buffer("text_features", self.text_features)
            self.transfer = "none"  # the maps were trained with texts that exist for these classes only
        self.text_cache.align(self.text_features)
        self._freeze()

    def adapt(self, support: FeatureSet, val: FeatureSet) -> None:
        """Build the image cache, and take the texts of the CoOp run if asked to."""
        super().adapt(support, val)
        if self.text_source == "coop":
            texts = coop_text_features(self.clip, self.classes, self.coop_run)
            self.text_features = texts.to(self.text_features)
            self.text_cache.align(self.text_features)
        self._freeze()

    def _freeze(self) -> None:
        """Leave to the optimiser only what can change the logits."""
        if self.training_free:
            self.requires_grad_(False)
        elif self.text_cache.fusion == "image":
            self.text_cache.requires_grad_(False)
        elif self.text_cache.fusion == "text":
            self.cache_keys.requires_grad_(False)

    def text_side(self, classes: ClassSet, text_features: Tensor) -> Self:
        """Return zero-shot logits plus the votes of a text cache of these classes alone (γ = 0).

        Each class counts as many times as a trained one did, so that α keeps its meaning. Ours: the paper
        defines nothing for classes without shots.
        """
        twin = super().text_side(classes, text_features)
        shots = int(self._shots().max())
        labels = torch.arange(len(classes), device=self.cache_labels.device).repeat_interleave(shots)
        twin._set_cache(self.cache_keys.new_zeros(len(labels), self.cache_keys.shape[1]), labels)
        twin.text_cache = self.text_cache.alone()
        return twin

    def logits(self, image_features: Tensor) -> Tensor:
        """Return zero-shot logits plus the fused votes of both caches (B, C)."""
        return self._logits(self.evidence(image_features))

    def evidence(self, image_features: Tensor) -> Evidence:
        """Return the cosines of raw image features (B, D) with texts and both caches."""
        features, texts = F.normalize(image_features, dim=-1), self.text_features
        zero_shot = self.scale * features @ texts.T
        return Evidence(zero_shot, features @ self.cache_keys.T, self.text_cache(features, texts))

    def image_votes(self, evidence: Evidence, beta: float | Tensor) -> Tensor:
        """Return the image affinities summed over the shots of each class, (B, C)."""
        return class_affinities(evidence.cosines, self.cache_labels, len(self.classes), beta)

    def text_votes(self, evidence: Evidence, beta: float | Tensor) -> Tensor:
        """Return the same of the text affinities: each class's own, times its number of shots."""
        return torch.exp(beta * (evidence.text_cosines - 1)) * self._shots()

    def _logits(self, evidence: Evidence) -> Tensor:
        image, text = self.image_votes(evidence, self.beta), self.text_votes(evidence, self.text_cache.beta)
        return evidence.zero_shot + self.alpha * self.text_cache.fuse(image, text)

    def _shots(self) -> Tensor:
        return torch.bincount(self.cache_labels, minlength=len(self.classes)).to(self.cache_keys.dtype)

    def loss(self, batch: Batch) -> Tensor:
        """Return the cross-entropy, weighted towards images on which the two caches disagree."""
        inputs, labels = batch
        evidence = self.evidence(self.clip.encode_image(inputs) if inputs.ndim == 4 else inputs)
        if self.hard_weight == "none":
            return F.cross_entropy(self._logits(evidence), labels)
        each = F.cross_entropy(self._logits(evidence), labels, reduction="none")
        return (self.sample_weights(evidence, labels, each) * each).mean()

    @torch.no_grad()
    def sample_weights(self, evidence: Evidence, labels: Tensor, losses: Tensor) -> Tensor:
        """Return the weight of each image's loss (B,), of mean 1; its cross-entropy is read by ``focal`` alone."""
        text = torch.exp(self.text_cache.beta * (evidence.text_cosines - 1))
        if self.hard_weight == "all":
            image = torch.exp(self.beta * (evidence.cosines - 1))
            return unit_mean((image - text[:, self.cache_labels]).abs().mean(dim=-1))
        image = self.image_votes(evidence, self.beta) / self._shots().clamp_min(1)
        difference = (image - text).gather(1, labels[:, None]).squeeze(1).abs()
        return focal(difference, losses) if self.hard_weight == "focal" else unit_mean(difference)

    @torch.no_grad()
    def search(self, val: FeatureSet) -> None:
        """Choose α and β on val, then α and β_T, then α and a learned γ, see `search_fused`."""
        if self.search_scale is not None and len(val.labels):
            self._search(self.evidence(val.image_features[0]), val.labels)
        self.tuned = {**self.text_cache.learned_gamma(), **self.tuned}

    @torch.no_grad()
    def _search(self, evidence: Evidence, labels: Tensor) -> None:
        cache = self.text_cache
        assert self.search_scale is not None
        betas, alphas = (search_grid(*each) for each in zip(self.search_scale, self.search_step, strict=True))
        self.tuned = search_fused(
            evidence.zero_shot,
            labels,
            alphas,
            betas,
            fuse=cache.fuse,
            text_beta=float(cache.beta),
            image_votes=partial(self.image_votes, evidence),
            text_votes=partial(self.text_votes, evidence),
            search_text=cache.fusion != "image",
            search_gamma=cache.fusion == "learned",
        )
        self.alpha.fill_(self.tuned["alpha"])
        self.beta.fill_(self.tuned["beta"])
        cache.beta.fill_(self.tuned["text_beta"])
        if "gamma" in self.tuned and cache.gamma_logit is not None:  # ±inf at the ends: its sigmoid is exact
            cache.gamma_logit.copy_(torch.logit(torch.tensor(self.tuned["gamma"])))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: object) -> None:
        """Take over earlier names."""
        renamed(state_dict, prefix, _EARLIER)
        super()._load_from_state_dict(state_dict, prefix, *args)
