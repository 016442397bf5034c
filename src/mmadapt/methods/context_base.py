"""What methods with a learned context around the class names share."""

from __future__ import annotations

from typing import Self, TypedDict, Unpack

import torch
from torch import Tensor

from mmadapt.clip import ClipBackbone
from mmadapt.clip.prompted_towers import PromptedTowers, TextPath
from mmadapt.clip.prompts import Position, TextLayout, context_layout, word_tokens, word_vectors
from mmadapt.data.base import ClassSet
from mmadapt.errors import UserError
from mmadapt.methods.base import Method
from mmadapt.methods.parts.frozen_clip import scale_of
from mmadapt.methods.parts.recipe import Recipe

PROMPT_STD = 0.02
"""Standard deviation of random prompts in CoOp and all its successors."""


class TowerOptions(TypedDict, total=False):
    """How the towers are run; none of these changes a number beyond rounding.

    Attributes:
        text_path: See `PromptedTowers`, also for the others.
        class_chunk: Classes per pass of the text tower.
        checkpoint: Recompute blocks in the backward pass.
    """

    text_path: TextPath
    class_chunk: int | None
    checkpoint: bool


class PromptRecipe(Recipe, TowerOptions, total=False):
    """`Recipe` and `TowerOptions` together."""


class ContextMethod(Method):
    """A learned context around the class names, whatever makes the context.

    Its parameters are float32 whatever the precision of the towers: an update of the size of 1e-5, the
    warm-up rate of the recipes, is lost in half precision.

    Attributes:
        towers: The frozen towers that take the prompts.
        layout: Where the context of each class stands.
        scale: Factor s, exp(logit_scale) of the model.
    """

    layout: TextLayout

    def __init__(
        self,
        clip: ClipBackbone,
        classes: ClassSet,
        *,
        n_ctx: int,
        ctx_init: str | None,
        position: Position = "end",
        text_features: Tensor | None = None,
        text_path: TextPath = "shared",
        class_chunk: int | None = None,
        checkpoint: bool = False,
        **recipe: Unpack[Recipe],
    ) -> None:
        """Lay out the prompts.

        Args:
            clip: The frozen backbone.
            classes: Names and templates of the C classes.
            n_ctx: Number of context vectors.
            ctx_init: Words before the class name whose first embeddings start the context; None for random
                ones.
            position: Where the class name stands.
            text_features: Not used: the text features are what is learned.
            text_path: See `PromptedTowers`.
            class_chunk: See `PromptedTowers`.
            checkpoint: See `PromptedTowers`.
            recipe: See `Recipe`.

        Raises:
            UserError: If the towers take no prompts or a value makes no sense.
        """
        if text_features is None:
            text_features = torch.empty(0, clip.dim)
        super().__init__(clip, classes, text_features=text_features, **recipe)
        if n_ctx < 1:
            raise UserError(f"method.n_ctx={n_ctx}: at least one context vector is needed.")
        self.n_ctx, self.ctx_init, self.scale = n_ctx, ctx_init, scale_of(clip, None)
        self.towers = PromptedTowers(
            clip, text_path=text_path, class_chunk=class_chunk, checkpoint=checkpoint
        )
        self.layout = context_layout(clip, classes.names, n_ctx, ctx_init, position)
        self.position = position

    def for_classes(self, classes: ClassSet, text_features: Tensor) -> Self:
        """Return the learned context around other names; ``text_features`` is not used."""
        twin = super().for_classes(classes, text_features)
        twin.layout = context_layout(self.clip, classes.names, self.n_ctx, self.ctx_init, self.position)
        return twin

    def initial_context(self) -> Tensor:
        """Return the context (n, d_t) to start from: the embeddings of the words, or N(0, 0.02²)."""
        if self.ctx_init:
            return word_vectors(self.clip, self.ctx_init, self.n_ctx)
        return torch.randn(self.n_ctx, self.towers.text.width) * PROMPT_STD


def context_size(clip: ClipBackbone, n_ctx: int, ctx_init: str | None) -> int:
    """Return the number of context vectors where words, if given, decide it (CoOp)."""
    return word_tokens(clip, ctx_init) if ctx_init else n_ctx
