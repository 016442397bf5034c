"""CoCoOp (arXiv 2203.05557): the context of CoOp, shifted for each image by a small network of its feature."""

from __future__ import annotations

from collections import OrderedDict
from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmadapt.clip import ClipBackbone
from mmadapt.data.base import ClassSet
from mmadapt.errors import UserError
from mmadapt.methods.context_base import ContextMethod, PromptRecipe, context_size


class CoCoOp(ContextMethod):
    """``logits = s · n(f) · n(g(v + π(n(f)), name_k))``, trained by cross-entropy on cached image features f.

    The meta-net π adds one vector to every context vector v, so each image has prompts of its own (§3.2). On
    the shared text path an image costs its context, and its names' own tokens, not C whole prompts.

    Deviations from the released code: the parameters are float32 whatever the precision of the towers; any
    batch size, where the mean of the images' losses is taken; words of several tokens count as that many
    vectors (there: as one each, which makes no difference for "a photo of a").

    Attributes:
        ctx: The context v (n, d_t).
        meta_net: π: linear (D, D/16), ReLU, linear (D/16, d_t), both with biases.
        image_chunk: Images whose prompts are run at once.
    """

    def __init__(
        self,
        clip: ClipBackbone,
        classes: ClassSet,
        *,
        n_ctx: int = 4,
        ctx_init: str | None = "a photo of a",
        reduction: int = 16,
        image_chunk: int = 8,
        text_features: Tensor | None = None,
        **recipe: Unpack[PromptRecipe],
    ) -> None:
        """Start the context and the meta-net.

        Args:
            clip: The frozen backbone, any image tower.
            classes: Names and templates of the C classes.
            n_ctx: Number of context vectors; the number of tokens in ``ctx_init`` if that is given.
            ctx_init: Words to start from; None starts from N(0, 0.02²).
            reduction: Factor by which the meta-net's hidden layer is narrower than the image feature.
            image_chunk: Images whose prompts are run at once, each with the own tokens of all classes; bounds
                memory at test time, where batches are large. Under gradients the activations of all chunks
                are kept: there ``class_chunk`` and ``checkpoint`` save memory.
            text_features: Not used: the text features are what is learned.
            recipe: See `PromptRecipe`.

        Raises:
            UserError: If the text tower takes no prompts or a value makes no sense.
        """
        n_ctx = context_size(clip, n_ctx, ctx_init)
        super().__init__(clip, classes, n_ctx=n_ctx, ctx_init=ctx_init, text_features=text_features, **recipe)
        if self.position != "end":
            raise UserError(
                f"method.position={self.position}: the context of CoCoOp differs per image and must stand before the "
                "class name. Use method.position=end, or method=coop."
            )
        if image_chunk < 1:
            raise UserError(f"method.image_chunk={image_chunk}: at least one image is needed.")
        if not 1 <= reduction <= clip.dim:
            raise UserError(
                f"method.reduction={reduction}: image features of {clip.arch} have {clip.dim} dimensions, so use "
                f"1 to {clip.dim}."
            )
        self.image_chunk = image_chunk
        self.ctx = nn.Parameter(self.initial_context())
        hidden = clip.dim // reduction
        layers = OrderedDict[str, nn.Module](
            linear1=nn.Linear(clip.dim, hidden),
            relu=nn.ReLU(),
            linear2=nn.Linear(hidden, self.towers.text.width),
        )  # named as released
        self.meta_net = nn.Sequential(layers)

    def contexts(self, images: Tensor) -> Tensor:
        """Return the context (B, n, d_t) of each image, given unit image features (B, D)."""
        bias: Tensor = self.meta_net(images)
        return self.ctx + bias[:, None]

    def logits(self, image_features: Tensor) -> Tensor:
        """Return class logits (B, C) of raw image features (B, D)."""
        images = F.normalize(image_features.float(), dim=-1)
        return torch.cat([self._logits(chunk) for chunk in images.split(self.image_chunk)])

    def _logits(self, images: Tensor) -> Tensor:
        texts = self.towers.encode_text_per_image(self.layout, self.contexts(images))
        cosines = F.normalize(texts, dim=-1) @ images[..., None]  # (B, C, 1)
        return self.scale * cosines[..., 0]
