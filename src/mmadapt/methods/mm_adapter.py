"""Multi-Modal Adapter (Seputis et al., arXiv 2409.02958): class texts and the image attend to each other."""

from __future__ import annotations

from typing import Literal, Unpack, get_args

import torch
from lightning import Callback
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor
from torch.nn import functional as F

from mmadapt.clip import ClipBackbone
from mmadapt.data.base import ClassSet
from mmadapt.errors import UserError, one_of
from mmadapt.methods.base import Method
from mmadapt.methods.parts import mm_layers as layers
from mmadapt.methods.parts.frozen_clip import scale_of
from mmadapt.methods.parts.mm_attention import blend, blended_cosines, image_update
from mmadapt.methods.parts.mm_layers import BONUS, Block, Bottleneck, Mask
from mmadapt.methods.parts.recipe import Recipe

Adapt = Literal["both", "image", "text"]


class MMAdapter(Method):
    """``U = up(attention(down([T; v])))`` over C class texts and one image, blended into both.

    ``v' = n(0.2 n(U_v) + 0.8 v)``, ``t'_c = n(0.2 n(U_c) + 0.8 t_c)``, ``logits = s · ⟨v', t'_c⟩``; texts are
    adapted for each image. Nothing depends on the number of classes: new classes can be given at test time.

    The released code exists in three states, and which of them the paper measured is not known. The default
    is the only one whose mask works and that adapts both modalities (linear bottleneck, ``mask=hard``); at
    D = 512 it has 197,760 parameters. ``bottleneck=lowrank mask=soft`` is the one of July 2024 (107,712),
    whose mask of ones is added to the scores and so blocks nothing; ``bottleneck=lowrank adapt=image`` is
    that of May 2024. Under the hard mask a class text sees the image alone, so that all classes get the same
    correction.

    Computed exactly, but never as (C + 1)² attention for each image, see `mmadapt.methods.parts.mm_attention`; the
    plain form is `plain_logits`. ``block=transformer`` takes the plain path while it trains with dropout under another
    mask than hard. Deviations: width D/4 and rank D/16 for any D, where the code has 128 and 32 for D = 512.
    """

    def __init__(
        self,
        clip: ClipBackbone,
        classes: ClassSet,
        *,
        mask: Mask = "hard",
        bottleneck: Bottleneck = "linear",
        block: Block = "mha",
        adapt: Adapt = "both",
        image_ratio: float = 0.2,
        text_ratio: float = 0.2,
        width: int | None = None,
        rank: int | None = None,
        heads: int = 4,
        dropout: float = 0.1,
        patience: int | None = 5,
        logit_scale: float | None = None,
        text_features: Tensor | None = None,
        **recipe: Unpack[Recipe],
    ) -> None:
        """Build the adapter with PyTorch's default initialisation: at step 0 it is not zero-shot CLIP.

        Args:
            mask: ``hard``: attention between modalities only; ``soft``: 1 is added to those scores; ``none``.
            bottleneck: ``linear``: one linear map each way; ``lowrank``: two maps down without activation,
                two up with GELU between; ``mlp``: two maps with GELU between, each way.
            block: Bare attention, or a post-norm transformer layer (feed-forward 2048, ReLU).
            adapt: Which features get their correction.
            image_ratio: Share of the image's correction in [0, 1].
            text_ratio: Share of the texts' correction in [0, 1].
            width: Width r of the attention; None is D/4, down to a multiple of ``heads``.
            rank: Inner width of ``bottleneck=lowrank``; None is D/16.
            heads: Attention heads.
            dropout: Of the transformer layer; bare attention has none.
            patience: With ``selection=best_val``: stop after so many epochs without a better val accuracy.
            logit_scale: Factor of the cosine; None is the model's own.

        Raises:
            UserError: If a word is unknown or a number out of range.
        """
        super().__init__(clip, classes, text_features=text_features, **recipe)
        one_of("method.mask", mask, get_args(Mask))
        one_of("method.bottleneck", bottleneck, get_args(Bottleneck))
        one_of("method.block", block, get_args(Block))
        one_of("method.adapt", adapt, get_args(Adapt))
        if not (0 <= image_ratio <= 1 and 0 <= text_ratio <= 1):
            raise UserError(
                f"method.image_ratio={image_ratio}, text_ratio={text_ratio}: shares must lie in [0, 1]."
            )
        if heads < 1:
            raise UserError(f"method.heads={heads}: attention needs 1 or more heads.")
        width = max(clip.dim // 4 // heads, 1) * heads if width is None else width
        rank = max(clip.dim // 16, 1) if rank is None else rank
        if width < 1 or width % heads or rank < 1:
            raise UserError(
                f"method.width={width}, rank={rank}: need rank ≥ 1 and a width that heads={heads} divide."
            )
        if patience is not None and patience < 1:
            raise UserError(f"method.patience={patience} must be 1 or more, or null for all epochs.")
        self.mask, self.adapted, self.patience = mask, adapt, patience
        self.image_ratio, self.text_ratio = image_ratio, text_ratio
        self.scale = scale_of(clip, logit_scale)
        self.down = layers.down_layers(clip.dim, width, rank, bottleneck)
        self.attention = layers.attention_layer(block, width, heads, dropout)
        self.up = layers.up_layers(clip.dim, width, rank, bottleneck)

    def logits(self, image_features: Tensor) -> Tensor:
        """Return scaled cosines (B, C) of corrected image and text features."""
        attention, layer = layers.parts_of(self.attention)
        drop = layer.self_attn.dropout if layer is not None and self.training else 0.0
        if drop and self.mask != "hard":
            return self.plain_logits(image_features)
        images, texts = F.normalize(image_features, dim=-1), self.text_features
        low_images, low_texts = self.down(images), self.down(texts)
        image, text = layers.heads_of(attention, low_images), layers.heads_of(attention, low_texts)
        if self.adapted != "text":
            read = attention.out_proj(image_update(text, image, BONUS[self.mask], self.mask != "hard", drop))
            read = read if layer is None else layers.tail(layer, low_images, read)
            images = blend(images, self.up(read), self.image_ratio)
        if self.adapted == "image":
            return self.scale * images @ texts.mT
        hidden, last = layers.text_hidden(text, image, low_texts, attention, layer, self.up, self.mask, drop)
        return self.scale * blended_cosines(images, texts, hidden, last.weight, last.bias, self.text_ratio)

    def plain_logits(self, image_features: Tensor) -> Tensor:
        """Return the same logits by attention over C + 1 tokens for each image: the slow oracle."""
        images, texts = F.normalize(image_features, dim=-1), self.text_features
        on_image, on_texts = layers.plain_updates(
            self.down, self.attention, self.up, images, texts, self.mask
        )
        if self.adapted != "text":
            images = blend(images, on_image, self.image_ratio)
        if self.adapted == "image":
            return self.scale * images @ texts.mT
        adapted = blend(texts.unsqueeze(1), on_texts, self.text_ratio)
        return self.scale * torch.einsum("bd,cbd->bc", images, adapted)

    def configure_callbacks(self) -> list[Callback]:
        """Return also what stops once val accuracy has not risen for ``patience`` epochs."""
        callbacks = super().configure_callbacks()
        if callbacks and self.patience is not None:
            stop = EarlyStopping(
                "val/top1", mode="max", patience=self.patience, check_on_train_epoch_end=False
            )
            callbacks.append(stop)
        return callbacks
