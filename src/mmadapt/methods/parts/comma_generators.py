"""The networks that turn the prompts of one layer into prompts of the next, for COMMA."""

from __future__ import annotations

from torch import Tensor, cat, nn
from torch.nn import functional as F


class AttentionGenerator(nn.Module):
    """``K = W T + b``; ``A = softmax(V Kᵀ / √d_v)``; ``G(V, T) = W₂ ReLU(W₁ LN(A K))`` (COMMA, §3.2).

    One head, no residual, no projection of the query, as released.
    """

    def __init__(self, text_width: int, vision_width: int, reduction: int = 4) -> None:
        """Build the layers with torch's default initialisation.

        Args:
            text_width: Width d_t of the text prompts.
            vision_width: Width d_v of the image prompts.
            reduction: d_v over the width of the bottleneck.
        """
        super().__init__()
        self.key_value = nn.Linear(text_width, vision_width)
        self.norm = nn.LayerNorm(vision_width)
        self.down = nn.Linear(vision_width, vision_width // reduction)
        self.up = nn.Linear(vision_width // reduction, vision_width)

    def forward(self, text: Tensor, vision: Tensor) -> Tensor:
        """Return the next image prompts (n, d_v) from text (n, d_t) and image prompts (n, d_v) of this layer."""
        keys = self.key_value(text)
        attention = (vision @ keys.mT / vision.shape[-1] ** 0.5).softmax(dim=-1)
        generated: Tensor = self.up(F.relu(self.down(self.norm(attention @ keys))))
        return generated


class PairGenerator(nn.Module):
    """Both towers' next prompts from both of this layer, side by side, token by token (DCP, NeurIPS 2024)."""

    def __init__(self, text_width: int, vision_width: int, reduction: int = 16) -> None:
        """Build one branch for each tower: layer norm, bottleneck with GELU.

        Args:
            text_width: Width d_t of the text prompts.
            vision_width: Width d_v of the image prompts.
            reduction: d_t + d_v over the width of the bottleneck.
        """
        super().__init__()
        both = text_width + vision_width

        def branch(width: int) -> nn.Sequential:
            return nn.Sequential(
                nn.LayerNorm(both),
                nn.Linear(both, both // reduction),
                nn.GELU(),
                nn.Linear(both // reduction, width),
            )

        self.text, self.vision = branch(text_width), branch(vision_width)

    def forward(self, text: Tensor, vision: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next text prompts (n, d_t) and image prompts (n, d_v)."""
        both = cat([vision, text], dim=-1)
        return self.text(both), self.vision(both)
