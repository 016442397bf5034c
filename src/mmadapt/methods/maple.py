"""MaPLe (arXiv 2210.03117): deep text prompts, and image prompts projected from them layer by layer."""

from __future__ import annotations

from copy import deepcopy
from typing import Unpack

from torch import Tensor, nn

from mmadapt.clip import ClipBackbone
from mmadapt.clip.prompts import PromptSet
from mmadapt.data.base import ClassSet
from mmadapt.methods.context_base import PromptRecipe
from mmadapt.methods.prompt_base import DeepPromptMethod


class MaPLe(DeepPromptMethod):
    """``Vᵢ = Fᵢ(Tᵢ)``: a linear map for each of the first J layers couples the towers (§3.2).

    As released, T₀ replaces only the first n words of the template: with two vectors "of a" stays.

    Attributes:
        projections: The maps Fᵢ, d_t → d_v with bias. F₁ … start equal to each other, as released.
    """

    def __init__(
        self,
        clip: ClipBackbone,
        classes: ClassSet,
        *,
        depth: int = 9,
        n_ctx: int = 2,
        ctx_init: str | None = "a photo of a",
        text_features: Tensor | None = None,
        **recipe: Unpack[PromptRecipe],
    ) -> None:
        """Start prompts and projections.

        Args:
            clip: The frozen backbone; its image tower must be a vision transformer.
            classes: Names and templates of the C classes.
            depth: Number J of prompted layers, the first included.
            n_ctx: Vectors per layer, in each tower.
            ctx_init: Words before the name that T₀ starts from; None, or more than four vectors: N(0, 0.02²).
            text_features: Not used.
            recipe: See `PromptRecipe`.

        Raises:
            UserError: If a tower takes no prompts or a value makes no sense.
        """
        super().__init__(
            clip,
            classes,
            depth=depth,
            n_ctx=n_ctx,
            ctx_init=ctx_init,
            free_layers=max(depth - 1, 0),
            text_features=text_features,
            **recipe,
        )
        first, later = (nn.Linear(self.towers.text.width, self.towers.vision_width) for _ in range(2))
        self.projections = nn.ModuleList([first, *(deepcopy(later) for _ in range(depth - 1))])

    def prompts(self) -> PromptSet:
        """Return the text prompts of J layers and their projections."""
        text = (self.ctx, *self.text_prompts)
        return PromptSet(text, tuple(map(_call, self.projections, text)))


def _call(projection: nn.Module, prompt: Tensor) -> Tensor:
    projected: Tensor = projection(prompt)
    return projected
