"""CoOp (arXiv 2109.01134): the words around the class name are learned vectors; the image tower is untouched."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor, nn

from mmadapt.clip import ClipBackbone
from mmadapt.clip.prompts import Position, PromptSet
from mmadapt.data.base import ClassSet
from mmadapt.methods.context_base import PROMPT_STD, PromptRecipe, context_size
from mmadapt.methods.prompt_base import PromptMethod


class CoOp(PromptMethod):
    """Context vectors before, behind or around the name (§3.2), trained by cross-entropy on cached features.

    Deviations from the released code: words of several tokens count as that many vectors (there: as one each,
    which makes no difference for "a photo of a"); class-specific contexts may start from words.

    Attributes:
        ctx: The context (n, d_t), or (C, n, d_t) if class-specific.
    """

    def __init__(
        self,
        clip: ClipBackbone,
        classes: ClassSet,
        *,
        n_ctx: int = 16,
        ctx_init: str | None = None,
        position: Position = "end",
        class_specific: bool = False,
        text_features: Tensor | None = None,
        **recipe: Unpack[PromptRecipe],
    ) -> None:
        """Start the context.

        Args:
            clip: The frozen backbone, any image tower.
            classes: Names and templates of the C classes.
            n_ctx: Number of context vectors; the number of tokens in ``ctx_init`` if that is given, as
                released.
            ctx_init: Words to start from, for example ``a photo of a``; None starts from N(0, 0.02²).
            position: Where the class name stands: ``end``, ``middle`` of the context, or ``front``.
            class_specific: A context of its own for each class. Then classes share no more than SOS, and the
                text tower costs a few times as much.
            text_features: Not used.
            recipe: See `PromptRecipe`.

        Raises:
            UserError: If the text tower takes no prompts or a value makes no sense.
        """
        n_ctx = context_size(clip, n_ctx, ctx_init)
        super().__init__(
            clip,
            classes,
            n_ctx=n_ctx,
            ctx_init=ctx_init,
            position=position,
            text_features=text_features,
            **recipe,
        )
        if class_specific and not ctx_init:
            context = torch.randn(len(classes), n_ctx, self.towers.text.width) * PROMPT_STD
        else:
            context = self.initial_context()
            context = context.repeat(len(classes), 1, 1) if class_specific else context
        self.ctx = nn.Parameter(context)
        self.transfer = "none" if class_specific else "names"

    def prompts(self) -> PromptSet:
        """Return the context as the one layer of text prompts."""
        return PromptSet(text=(self.ctx,))
