"""What prompt-learning methods share: class features from learned prompts, computed once where nothing learns."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Self, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmadapt.clip import ClipBackbone
from mmadapt.clip.prompts import PromptSet
from mmadapt.data.base import ClassSet
from mmadapt.methods.context_base import PROMPT_STD, ContextMethod, PromptRecipe

MOST_WORDS = 4
"""Contexts longer than this start at random, whatever the words (released code of MaPLe and COMMA)."""


class PromptMethod(ContextMethod):
    """``logits = s · n(image feature) · n(text feature)ᵀ`` with learned prompts in one tower or in both.

    A method writes `prompts`. They are the same for all images, so class features are kept where nothing learns.
    """

    _known: tuple[tuple[Tensor, ...], Tensor] | None = None

    def for_classes(self, classes: ClassSet, text_features: Tensor) -> Self:
        """Return the learned prompts around other names; ``text_features`` is not used."""
        twin = super().for_classes(classes, text_features)
        twin._known = None
        return twin

    @abstractmethod
    def prompts(self) -> PromptSet:
        """Return the prompts of both towers as the parameters now stand."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return class logits (B, C) of images (B, 3, H, W) or of raw features (B, D) of the prompted image tower."""
        prompts = self.prompts()
        features = self.towers.encode_image(inputs, prompts) if inputs.ndim == 4 else inputs
        return self._cosines(features, self.class_features(prompts))

    def logits(self, image_features: Tensor) -> Tensor:
        """Return class logits (B, C) of raw features (B, D) of the prompted image tower."""
        return self._cosines(image_features, self.class_features())

    def class_features(self, prompts: PromptSet | None = None) -> Tensor:
        """Return one unit text feature per class (C, D).

        Without gradients they are computed once and kept until the prompts change: once per class list at
        test.
        """
        prompts = prompts or self.prompts()
        if torch.is_grad_enabled():
            return F.normalize(self.towers.encode_text(self.layout, prompts).features, dim=-1)
        if self._known is None or not _equal(self._known[0], prompts.text):
            features = F.normalize(self.towers.encode_text(self.layout, prompts).features, dim=-1)
            self._known = (tuple(prompt.clone() for prompt in prompts.text), features)
        return self._known[1]

    def _cosines(self, image_features: Tensor, class_features: Tensor) -> Tensor:
        return self.scale * F.normalize(image_features.float(), dim=-1) @ class_features.T


class DeepPromptMethod(PromptMethod):
    """Text prompts for the first J layers; the image tower's are a method's own matter.

    Attributes:
        image_level: The image tower changes, so training sees images, not cached features.
        ctx: Text prompts T₀ of the first layer (n, d_t), in place of the first words.
        text_prompts: Text prompts T₁ … of the layers behind it, each (n, d_t).
        depth: Number J of prompted layers, the first included.
    """

    image_level: ClassVar[bool] = True

    def __init__(
        self,
        clip: ClipBackbone,
        classes: ClassSet,
        *,
        depth: int,
        n_ctx: int,
        ctx_init: str | None,
        free_layers: int,
        text_features: Tensor | None,
        **recipe: Unpack[PromptRecipe],
    ) -> None:
        """Start the text prompts; ``free_layers`` of them behind the first layer are parameters."""
        words = ctx_init if ctx_init and n_ctx <= MOST_WORDS else None
        super().__init__(clip, classes, n_ctx=n_ctx, ctx_init=words, text_features=text_features, **recipe)
        self.towers.check_depth(depth)
        self.depth = depth
        self.ctx = nn.Parameter(self.initial_context())
        self.text_prompts = nn.ParameterList(
            nn.Parameter(torch.randn(n_ctx, self.towers.text.width) * PROMPT_STD) for _ in range(free_layers)
        )


def _equal(some: tuple[Tensor, ...], others: tuple[Tensor, ...]) -> bool:
    return len(some) == len(others) and all(
        a.device == b.device and torch.equal(a, b) for a, b in zip(some, others, strict=True)
    )
