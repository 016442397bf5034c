"""Multi-Modal Adapter (Seputis et al., arXiv 2409.02958): class texts and the image attend to each other."""

from __future__ import annotations

from typing import Literal, Unpack, get_args

import torch
from lightning import Callback
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor, nn
from torch.nn import functional as F

from mmadapt.clip import ClipBackbone
from mmadapt.data.base import ClassSet
from mmadapt.errors import UserError, one_of
from mmadapt.methods.base import Method
from mmadapt.methods.parts.frozen_clip import scale_of
from mmadapt.methods.parts.mm_attention import (
    Heads,
    blend,
    blended_cosines,
    image_update,
    join,
    project,
    text_attention,
    text_update,
)
from mmadapt.methods.parts.mm_expansion import expanded_cosines
from mmadapt.methods.parts.recipe import Recipe

Mask = Literal["hard", "soft", "none"]
Bottleneck = Literal["linear", "lowrank", "mlp"]
Block = Literal["mha", "transformer"]
Adapt = Literal["both", "image", "text"]
_BONUS = {"hard": 0.0, "soft": 1.0, "none": 0.0}


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
    plain form is `plain_logits`. ``block=transformer`` has to form B · C tokens of width r, and takes the
    plain path while it trains with dropout under another mask than hard.

    Deviations: bottleneck width D/4 and rank D/16 for any D, where the code has 128 and 32 for D = 512.

    Attributes:
        down: D → r, for texts and image alike.
        attention: The multi-head attention, or the transformer layer with ``block=transformer``.
        up: r → D.
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
            clip: The frozen backbone.
            classes: Names and templates of the C classes.
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
            text_features: Unit text features (C, D), if encoded before.
            recipe: See `Recipe`.

        Raises:
            UserError: If a word is unknown or a number out of range.
        """
        super().__init__(clip, classes, text_features=text_features, **recipe)
        for name, value, accepted in (
            ("mask", mask, get_args(Mask)),
            ("bottleneck", bottleneck, get_args(Bottleneck)),
            ("block", block, get_args(Block)),
            ("adapt", adapt, get_args(Adapt)),
        ):
            one_of(f"method.{name}", value, accepted)
        if not (0 <= image_ratio <= 1 and 0 <= text_ratio <= 1):
            raise UserError(
                f"method.image_ratio={image_ratio}, text_ratio={text_ratio}: shares must lie in [0, 1]."
            )
        if heads < 1:
            raise UserError(f"method.heads={heads}: attention needs 1 or more heads.")
        dim = clip.dim
        width = max(dim // 4 // heads, 1) * heads if width is None else width
        rank = max(dim // 16, 1) if rank is None else rank
        if width < 1 or width % heads or rank < 1:
            raise UserError(
                f"method.width={width}, rank={rank}: need rank ≥ 1 and a width that heads={heads} divide."
            )
        if patience is not None and patience < 1:
            raise UserError(f"method.patience={patience} must be 1 or more, or null for all epochs.")
        self.mask, self.adapted = mask, adapt
        self.image_ratio, self.text_ratio, self.patience = image_ratio, text_ratio, patience
        self.scale = scale_of(clip, logit_scale)
        self.down = _down(dim, width, rank, bottleneck)
        self.attention: nn.MultiheadAttention | nn.TransformerEncoderLayer = (
            nn.MultiheadAttention(width, heads)
            if block == "mha"
            else nn.TransformerEncoderLayer(width, heads, dropout=dropout)
        )
        self.up = _up(dim, width, rank, bottleneck)

    def logits(self, image_features: Tensor) -> Tensor:
        """Return scaled cosines (B, C) of corrected image and text features."""
        layer = self.attention if isinstance(self.attention, nn.TransformerEncoderLayer) else None
        drop = layer.self_attn.dropout if layer is not None and self.training else 0.0
        if drop and self.mask != "hard":
            return self.plain_logits(image_features)
        attention = self.attention if layer is None else layer.self_attn
        assert isinstance(attention, nn.MultiheadAttention)
        images, texts = F.normalize(image_features, dim=-1), self.text_features
        low_images, low_texts = self.down(images), self.down(texts)
        image, text = (
            project(tokens, attention.in_proj_weight, attention.in_proj_bias, attention.num_heads)
            for tokens in (low_images, low_texts)
        )
        if self.adapted != "text":
            read = image_update(text, image, _BONUS[self.mask], self.mask != "hard", drop)
            read = attention.out_proj(read)
            read = read if layer is None else _tail(layer, low_images, read)
            images = blend(images, self.up(read), self.image_ratio)
        if self.adapted == "image":
            return self.scale * images @ texts.mT
        first, last = _ends(self.up)
        if layer is None and first is None and self.mask != "hard":
            out = attention.out_proj
            shared = text_attention(text, image, _BONUS[self.mask])
            weight, bias = last.weight @ out.weight, last.bias + last.weight @ out.bias
            return self.scale * expanded_cosines(images, texts, shared, image, weight, bias, self.text_ratio)
        fold = first if layer is None else None
        hidden = self._text_hidden(text, image, attention.out_proj, fold, drop)
        if layer is not None:
            hidden = _tail(layer, low_texts, hidden.expand(-1, len(texts), -1))
            hidden = hidden if first is None else first(hidden)
        hidden = hidden if first is None else F.gelu(hidden)
        return self.scale * blended_cosines(images, texts, hidden, last.weight, last.bias, self.text_ratio)

    def _text_hidden(
        self, text: Heads, image: Heads, out: nn.Linear, fold: nn.Linear | None, drop: float
    ) -> Tensor:
        """Return what class texts read, projected: (B, C, k), or (B, 1, k) if all classes read the same."""
        mix: Tensor = out.weight
        bias: Tensor = out.bias
        if fold is not None:
            mix, bias = fold.weight @ mix, fold.bias + fold.weight @ bias
        if self.mask != "hard":
            return text_update(text_attention(text, image, _BONUS[self.mask]), image, mix, bias)
        if not drop:
            return F.linear(join(image.value), mix, bias).unsqueeze(-2)
        heads, batch, _ = image.value.shape
        kept = F.dropout(image.value.new_ones(batch, text.key.shape[-2], heads, 1), drop)
        read = image.value.transpose(0, 1).unsqueeze(1) * kept
        return F.linear(read.flatten(-2), mix, bias)

    def plain_logits(self, image_features: Tensor) -> Tensor:
        """Return the same logits by attention over C + 1 tokens for each image: the slow oracle."""
        images, texts = F.normalize(image_features, dim=-1), self.text_features
        batch, classes = len(images), len(texts)
        tokens = torch.cat([texts.unsqueeze(1).expand(-1, batch, -1), images.unsqueeze(0)])
        low = self.down(tokens)
        scores = score_mask(self.mask, classes, low)
        if isinstance(self.attention, nn.MultiheadAttention):
            read = self.attention(low, low, low, attn_mask=scores, need_weights=False)[0]
        else:
            read = self.attention(low, src_mask=scores)
        update = self.up(read)
        if self.adapted != "text":
            images = blend(images, update[-1], self.image_ratio)
        if self.adapted == "image":
            return self.scale * images @ texts.mT
        adapted = blend(texts.unsqueeze(1), update[:-1], self.text_ratio)
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


def score_mask(mask: Mask, classes: int, like: Tensor) -> Tensor:
    """Return what is added to the scores of C texts and one image, (C + 1, C + 1)."""
    is_image = torch.arange(classes + 1, device=like.device) == classes
    within = is_image[:, None] == is_image[None]
    added = like.new_zeros(classes + 1, classes + 1)
    return (
        added.masked_fill(within, -torch.inf) if mask == "hard" else added.masked_fill(~within, _BONUS[mask])
    )


def _down(dim: int, width: int, rank: int, bottleneck: Bottleneck) -> nn.Module:
    if bottleneck == "linear":
        return nn.Linear(dim, width)
    if bottleneck == "lowrank":
        return nn.Sequential(nn.Linear(dim, rank), nn.Linear(rank, width))
    return nn.Sequential(nn.Linear(dim, width), nn.GELU(), nn.Linear(width, width))


def _up(dim: int, width: int, rank: int, bottleneck: Bottleneck) -> nn.Linear | nn.Sequential:
    if bottleneck == "linear":
        return nn.Linear(width, dim)
    inner = rank if bottleneck == "lowrank" else width
    return nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, dim))


def _ends(up: nn.Linear | nn.Sequential) -> tuple[nn.Linear | None, nn.Linear]:
    """Return the map before the activation, if there is one, and the last map."""
    if isinstance(up, nn.Linear):
        return None, up
    first, last = up[0], up[-1]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    return first, last


def _tail(layer: nn.TransformerEncoderLayer, tokens: Tensor, read: Tensor) -> Tensor:
    """Return what a post-norm transformer layer makes of its tokens and of what they read."""
    tokens = layer.norm1(tokens + layer.dropout1(read))
    inner = layer.linear2(layer.dropout(F.relu(layer.linear1(tokens))))
    out: Tensor = layer.norm2(tokens + layer.dropout2(inner))
    return out
