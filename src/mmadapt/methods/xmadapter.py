"""XMAdapter (arXiv 2404.12588): Tip-Adapter's image cache beside a text cache, fused by a learned ratio."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal, Self, Unpack, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmadapt.clip import ClipBackbone
from mmadapt.data.base import ClassSet
from mmadapt.distributed import global_mean
from mmadapt.errors import UserError, one_of
from mmadapt.features.encoder import FeatureSet
from mmadapt.methods.base import Batch
from mmadapt.methods.parts.cache_search import class_affinities, correct_for_votes
from mmadapt.methods.parts.coop_texts import coop_text_features
from mmadapt.methods.parts.recipe import Recipe
from mmadapt.methods.parts.xm_evidence import Evidence, projection_map, unit_mean
from mmadapt.methods.tip_adapter import TipAdapter, search_grid

Fusion = Literal["learned", "confidence", "fixed", "image", "text"]
HardWeight = Literal["class", "all", "focal", "none"]
TextSource = Literal["template", "coop"]
GAMMAS = tuple(i / 10 for i in range(11))


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
        img2txt: P_I, D → E.
        meta_net: P_T, D → E.
        text_beta: Sharpness β_T.
        gamma_logit: γ before the sigmoid, if it is learned.
    """

    trains_keys: ClassVar[bool] = True
    text_beta: Tensor

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
            clip: The frozen backbone.
            classes: Names and templates of the C classes.
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
            text_features: Unit text features (C, D), if encoded before: of any prompts.
            recipe: See `Recipe`.

        Raises:
            UserError: If a word is unknown or a number out of range.
        """
        super().__init__(
            clip, classes, alpha=alpha, beta=beta, search_scale=search_scale, search_step=search_step,
            logit_scale=logit_scale, text_features=text_features, **recipe,
        )  # fmt: skip
        one_of("method.fusion", fusion, get_args(Fusion))
        one_of("method.hard_weight", hard_weight, get_args(HardWeight))
        one_of("method.projection", projection, ("linear", "mlp"))
        one_of("method.text_source", text_source, get_args(TextSource))
        low_dim = max(clip.dim // 4, 1) if low_dim is None else low_dim
        if not 1 <= low_dim <= clip.dim:
            raise UserError(f"method.low_dim={low_dim} must lie between 1 and the feature width {clip.dim}.")
        if not 0 <= gamma <= 1 or (fusion == "learned" and gamma in (0, 1)):
            raise UserError(
                f"method.gamma={gamma} must lie in [0, 1], inside it to be learned; "
                "use method.fusion=image or text for one cache alone."
            )
        self.fusion, self.hard_weight, self.text_source = fusion, hard_weight, text_source
        self.coop_run, self.training_free = coop_run, training_free
        self.gamma = {"image": 1.0, "text": 0.0}.get(fusion, float(gamma))
        self.register_buffer("text_beta", torch.tensor(float(beta if text_beta is None else text_beta)))
        self.img2txt = projection_map(clip.dim, low_dim, projection)
        self.meta_net = projection_map(clip.dim, low_dim, projection)
        if fusion == "learned":
            self.gamma_logit = nn.Parameter(torch.logit(torch.tensor(self.gamma)))
        if text_source == "coop":  # these texts cannot be encoded again from the class names
            self.register_buffer("text_features", self.text_features)
            self.transfer = "none"  # the maps were trained with texts that exist for these classes only
        self._align()
        self._freeze()

    def adapt(self, support: FeatureSet, val: FeatureSet) -> None:
        """Build the image cache, and take the texts of the CoOp run if asked to."""
        super().adapt(support, val)
        if self.text_source == "coop":
            texts = coop_text_features(self.clip, self.classes, self.coop_run)
            self.text_features = texts.to(self.text_features)
            self._align()
        self._freeze()

    def _freeze(self) -> None:
        """Leave to the optimiser only what can change the logits."""
        if self.training_free:
            self.requires_grad_(False)
        elif self.fusion == "image":
            self.img2txt.requires_grad_(False)
            self.meta_net.requires_grad_(False)
        elif self.fusion == "text":
            self.cache_keys.requires_grad_(False)

    @torch.no_grad()
    def _align(self) -> None:
        """Start both maps alike; a linear one with the leading right singular vectors of the texts."""
        if isinstance(self.img2txt, nn.Linear):
            basis = torch.linalg.svd(self.text_features.double().cpu(), full_matrices=True).Vh
            self.img2txt.weight.copy_(basis[: self.img2txt.out_features])
        self.meta_net.load_state_dict(self.img2txt.state_dict())

    def text_side(self, classes: ClassSet, text_features: Tensor) -> Self:
        """Return zero-shot logits plus the votes of a text cache of these classes alone (γ = 0).

        Each class counts as many times as a trained one did, so that α keeps its meaning. Ours: the paper
        defines nothing for classes without shots.
        """
        twin = super().text_side(classes, text_features)
        shots = int(self._shots().max())
        labels = torch.arange(len(classes), device=self.cache_labels.device).repeat_interleave(shots)
        twin._set_cache(self.cache_keys.new_zeros(len(labels), self.cache_keys.shape[1]), labels)
        twin.fusion, twin.gamma = "text", 0.0
        return twin

    def logits(self, image_features: Tensor) -> Tensor:
        """Return zero-shot logits plus the fused votes of both caches (B, C)."""
        evidence = self.evidence(image_features)
        return evidence.zero_shot + self.alpha * self._votes(evidence)

    def evidence(self, image_features: Tensor) -> Evidence:
        """Return the cosines of raw image features (B, D) with texts and both caches."""
        features = F.normalize(image_features, dim=-1)
        low_images = F.normalize(self.img2txt(features), dim=-1)
        low_texts = F.normalize(self.meta_net(self.text_features), dim=-1)
        return Evidence(
            self.scale * features @ self.text_features.T,
            features @ self.cache_keys.T,
            low_images @ low_texts.T,
        )

    def image_votes(self, evidence: Evidence, beta: float | Tensor) -> Tensor:
        """Return the image affinities summed over the shots of each class, (B, C)."""
        return class_affinities(evidence.cosines, self.cache_labels, len(self.classes), beta)

    def text_votes(self, evidence: Evidence, beta: float | Tensor) -> Tensor:
        """Return the same of the text affinities: each class's own, times its number of shots."""
        return torch.exp(beta * (evidence.text_cosines - 1)) * self._shots()

    def fuse(self, image_votes: Tensor, text_votes: Tensor, gamma: float | Tensor | None = None) -> Tensor:
        """Return ``γ · image_votes + (1 − γ) · text_votes``, by this adapter's own γ unless given."""
        gamma = self._gamma(image_votes, text_votes) if gamma is None else gamma
        return gamma * image_votes + (1 - gamma) * text_votes

    def _votes(self, evidence: Evidence) -> Tensor:
        return self.fuse(self.image_votes(evidence, self.beta), self.text_votes(evidence, self.text_beta))

    def _gamma(self, image_votes: Tensor, text_votes: Tensor) -> float | Tensor:
        if self.fusion == "confidence":
            image, text = (v.softmax(dim=-1).amax(dim=-1, keepdim=True) for v in (image_votes, text_votes))
            return image / (image + text)
        return torch.sigmoid(self.gamma_logit) if self.fusion == "learned" else self.gamma

    def _shots(self) -> Tensor:
        return torch.bincount(self.cache_labels, minlength=len(self.classes)).to(self.cache_keys.dtype)

    def loss(self, batch: Batch) -> Tensor:
        """Return the cross-entropy, weighted towards images on which the two caches disagree."""
        if self.hard_weight == "none":
            return super().loss(batch)
        inputs, labels = batch
        evidence = self.evidence(self.clip.encode_image(inputs) if inputs.ndim == 4 else inputs)
        each = F.cross_entropy(
            evidence.zero_shot + self.alpha * self._votes(evidence), labels, reduction="none"
        )
        return (self.sample_weights(evidence, labels, each) * each).mean()

    @torch.no_grad()
    def sample_weights(self, evidence: Evidence, labels: Tensor, losses: Tensor) -> Tensor:
        """Return the weight of each image's loss (B,), of mean 1.

        Args:
            evidence: What `evidence` returns.
            labels: Classes (B,).
            losses: Cross-entropies (B,), read by ``focal`` alone.
        """
        text = torch.exp(self.text_beta * (evidence.text_cosines - 1))
        if self.hard_weight == "all":
            image = torch.exp(self.beta * (evidence.cosines - 1))
            difference = (image - text[:, self.cache_labels]).abs().mean(dim=-1)
        else:
            image = self.image_votes(evidence, self.beta) / self._shots().clamp_min(1)
            difference = (image - text).gather(1, labels[:, None]).squeeze(1).abs()
        if self.hard_weight == "focal":
            difference = difference * (1 - torch.exp(-losses))
            return difference / global_mean(difference).clamp_min(1e-12)
        return unit_mean(difference)

    @torch.no_grad()
    def search(self, val: FeatureSet) -> None:
        """Choose α and β on val, then α and β_T, then α and a learned γ; later steps must be strictly better."""
        if self.search_scale is not None and len(val.labels):
            self._search(self.evidence(val.image_features[0]), val.labels)
        if self.fusion == "learned":
            self.tuned.setdefault("gamma", float(torch.sigmoid(self.gamma_logit)))

    @torch.no_grad()
    def _search(self, evidence: Evidence, labels: Tensor) -> None:
        assert self.search_scale is not None
        alphas = search_grid(self.search_scale[1], self.search_step[1])
        betas = search_grid(self.search_scale[0], self.search_step[0])
        best, self.tuned = -1, {"text_beta": float(self.text_beta)}

        def better(votes: Tensor) -> bool:
            nonlocal best
            correct = correct_for_votes(evidence.zero_shot, votes, labels, alphas)
            top = int(correct.argmax())
            if int(correct[top]) <= best:
                return False
            best = int(correct[top])
            self.alpha.fill_(alphas[top])
            self.tuned["alpha"] = alphas[top]
            return True

        text = self.text_votes(evidence, self.text_beta)
        for beta in betas:
            if better(self.fuse(self.image_votes(evidence, beta), text)):
                self.beta.fill_(beta)
                self.tuned["beta"] = beta
        image = self.image_votes(evidence, self.beta)
        for beta in betas if self.fusion != "image" else ():
            if better(self.fuse(image, self.text_votes(evidence, beta))):
                self.text_beta.fill_(beta)
                self.tuned["text_beta"] = beta
        text = self.text_votes(evidence, self.text_beta)
        for gamma in GAMMAS if self.fusion == "learned" else ():
            if better(self.fuse(image, text, gamma)):  # the logit is ±inf at the ends: its sigmoid is exact
                self.gamma_logit.copy_(torch.logit(torch.tensor(gamma)))
                self.tuned["gamma"] = gamma
