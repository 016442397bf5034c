"""The layers of the Multi-Modal Adapter, their plain form, and what the fast form reads of them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmadapt.methods.parts.mm_attention import Heads, join, project, text_attention, text_update

Mask = Literal["hard", "soft", "none"]
Bottleneck = Literal["linear", "lowrank", "mlp"]
Block = Literal["mha", "transformer"]
BONUS = {"hard": 0.0, "soft": 1.0, "none": 0.0}
"""What each mask adds to the scores between modalities."""
Attention = nn.MultiheadAttention | nn.TransformerEncoderLayer
Maps = nn.Linear | nn.Sequential


def down_layers(dim: int, width: int, rank: int, bottleneck: Bottleneck) -> Maps:
    """Return the maps dim → width."""
    if bottleneck == "linear":
        return nn.Linear(dim, width)
    if bottleneck == "lowrank":
        return nn.Sequential(nn.Linear(dim, rank), nn.Linear(rank, width))
    return nn.Sequential(nn.Linear(dim, width), nn.GELU(), nn.Linear(width, width))


def up_layers(dim: int, width: int, rank: int, bottleneck: Bottleneck) -> Maps:
    """Return the maps width → dim."""
    if bottleneck == "linear":
        return nn.Linear(width, dim)
    inner = rank if bottleneck == "lowrank" else width
    return nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, dim))


def ends(up: Maps) -> tuple[nn.Linear | None, nn.Linear]:
    """Return the map before the activation, if there is one, and the last map."""
    if isinstance(up, nn.Linear):
        return None, up
    first, last = up[0], up[-1]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    return first, last


def tail(layer: nn.TransformerEncoderLayer, tokens: Tensor, read: Tensor) -> Tensor:
    """Return what a post-norm transformer layer makes of its tokens and of what they read."""
    tokens = layer.norm1(tokens + layer.dropout1(read))
    inner = layer.linear2(layer.dropout(F.relu(layer.linear1(tokens))))
    out: Tensor = layer.norm2(tokens + layer.dropout2(inner))
    return out


def attention_layer(block: Block, width: int, heads: int, dropout: float) -> Attention:
    """Return bare attention, or a post-norm transformer layer around it."""
    if block == "mha":
        return nn.MultiheadAttention(width, heads)
    return nn.TransformerEncoderLayer(width, heads, dropout=dropout)


def parts_of(attention: Attention) -> tuple[nn.MultiheadAttention, nn.TransformerEncoderLayer | None]:
    """Return the attention, and the transformer layer around it if there is one."""
    if isinstance(attention, nn.MultiheadAttention):
        return attention, None
    return attention.self_attn, attention


def heads_of(attention: nn.MultiheadAttention, tokens: Tensor) -> Heads:
    """Return the heads of tokens (N, r)."""
    return project(tokens, attention.in_proj_weight, attention.in_proj_bias, attention.num_heads)


def text_hidden(
    text: Heads,
    image: Heads,
    low_texts: Tensor,
    attention: nn.MultiheadAttention,
    layer: nn.TransformerEncoderLayer | None,
    up: Maps,
    mask: Mask,
    drop: float,
) -> tuple[Tensor, nn.Linear]:
    """Return what goes into the last map of the texts, (B, C, k) or (B, 1, k) if equal for all, and that map.

    Args:
        text: Heads of the class tokens.
        image: Heads of the image tokens.
        low_texts: The class tokens (C, r).
        attention: The attention.
        layer: The transformer layer around it, if there is one.
        up: The maps behind it.
        mask: Under ``hard`` a class text reads the image alone.
        drop: Probability with which an attention weight is dropped.
    """
    first, last = ends(up)
    hidden = _read(text, image, attention.out_proj, first if layer is None else None, mask, drop)
    if layer is not None:
        hidden = tail(layer, low_texts, hidden.expand(-1, len(low_texts), -1))
        hidden = hidden if first is None else first(hidden)
    return hidden if first is None else F.gelu(hidden), last


def _read(
    text: Heads, image: Heads, out: nn.Linear, fold: nn.Linear | None, mask: Mask, drop: float
) -> Tensor:
    """Return what class texts read, projected by ``out`` and a linear map behind it, taken into it."""
    mix: Tensor = out.weight
    bias: Tensor = out.bias
    if fold is not None:
        mix, bias = fold.weight @ mix, fold.bias + fold.weight @ bias
    if mask != "hard":
        return text_update(text_attention(text, image, BONUS[mask]), image, mix, bias)
    if not drop:
        return F.linear(join(image.value), mix, bias).unsqueeze(-2)
    heads, batch, _ = image.value.shape
    kept = F.dropout(image.value.new_ones(batch, text.key.shape[-2], heads, 1), drop)
    read = image.value.transpose(0, 1).unsqueeze(1) * kept
    return F.linear(read.flatten(-2), mix, bias)


def plain_updates(
    down: Maps, attention: Attention, up: Maps, images: Tensor, texts: Tensor, mask: Mask
) -> tuple[Tensor, Tensor]:
    """Return the corrections of the images (B, D) and of the texts for each image (C, B, D): the slow oracle.

    Attention over C + 1 tokens for each of the unit image features (B, D) and all unit text features (C, D).
    """
    tokens = torch.cat([texts.unsqueeze(1).expand(-1, len(images), -1), images.unsqueeze(0)])
    low = down(tokens)
    scores = score_mask(mask, len(texts), low)
    if isinstance(attention, nn.MultiheadAttention):
        read = attention(low, low, low, attn_mask=scores, need_weights=False)[0]
    else:
        read = attention(low, src_mask=scores)
    update = up(read)
    return update[-1], update[:-1]


def score_mask(mask: Mask, classes: int, like: Tensor) -> Tensor:
    """Return what is added to the scores of C texts and one image, (C + 1, C + 1)."""
    is_image = torch.arange(classes + 1, device=like.device) == classes
    within = is_image[:, None] == is_image[None]
    added = like.new_zeros(classes + 1, classes + 1)
    if mask == "hard":
        return added.masked_fill(within, -torch.inf)
    return added.masked_fill(~within, BONUS[mask])
