"""The Multi-Modal Adapter with linear maps only: logits from products of heads, no hidden value per pair.

Without an activation behind the attention, the correction of class c for image b is linear in what the class
reads, ``u_c + Σ_h w_bch (v_bh − u_ch)``: its reading without the image, and for each head h a step towards the
image's value. Norm and products of the correction expand into those of u and v, taken head by head: h² numbers
per pair, where the correction itself has r and would pass through a Gram matrix r × r. Letters as in
`mm_attention`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmadapt.methods.parts.mm_attention import Heads, Shared, cosines_of, join


def expanded_cosines(
    images: Tensor, texts: Tensor, shared: Shared, image: Heads, weight: Tensor, bias: Tensor, ratio: float
) -> Tensor:
    """Return the cosines of images and corrected texts, (..., B, C).

    The same as `text_update` followed by `blended_cosines` for linear maps that are joined to one.

    Args:
        images: Unit image features (..., B, D).
        texts: Unit text features (..., C, D).
        shared: From `text_attention`.
        image: Heads of the image tokens.
        weight: The map from the heads to the correction (..., D, r).
        bias: Its bias (..., D).
        ratio: Share of the correction.
    """
    value, share = shared  # u: (..., h, C, d), w: (..., h, B, C)
    read, column = join(value), bias.unsqueeze(-1)
    gram, cross = weight.mT @ weight, (weight.mT @ column).mT
    dual = read @ gram + cross  # times the head of a token: its product with the correction u_c
    squared = ((dual + cross) * read).sum(dim=-1) + (bias * bias).sum(dim=-1, keepdim=True)
    squared = squared.unsqueeze(-2) + 2 * _steps(share, value, image.value, dual)
    squared = squared + _quadratic(share, value, image.value, gram)
    inverse = squared.clamp_min(1e-24).rsqrt()

    low = texts @ weight
    on_text = ((read * low).sum(dim=-1, keepdim=True) + texts @ column).mT
    on_text = on_text + _steps(share, value, image.value, low)
    low = images @ weight
    by_head = _split(low, share.shape[-3])
    steps = (image.value * by_head).sum(dim=-1, keepdim=True) - by_head @ value.mT
    on_image = low @ read.mT + images @ column + (share * steps).sum(dim=-3)
    return cosines_of(images, texts, inverse * on_image, inverse * on_text, ratio)


def _split(tokens: Tensor, heads: int) -> Tensor:
    """Return (..., h, N, d) of (..., N, r)."""
    return torch.unflatten(tokens, -1, (heads, -1)).transpose(-2, -3)


def _steps(share: Tensor, value: Tensor, image: Tensor, of_class: Tensor) -> Tensor:
    """Return ``Σ_h w_bch ⟨v_bh − u_ch, x_ch⟩`` for vectors x of the classes (..., C, r)."""
    by_head = _split(of_class, share.shape[-3])
    own = (value * by_head).sum(dim=-1)
    return (share * (image @ by_head.mT - own.unsqueeze(-2))).sum(dim=-3)


def _quadratic(share: Tensor, value: Tensor, image: Tensor, gram: Tensor) -> Tensor:
    """Return the squared norm of ``Σ_h w_bch (v_bh − u_ch)`` under the Gram matrix (..., r, r), (..., B, C)."""
    heads = share.shape[-3]
    rows = gram.unflatten(-2, (heads, -1))  # (..., h', d, r)
    image_dual = _heads_first(image @ rows, heads)  # (..., h, h', B, d)
    class_dual = _heads_first(value @ rows, heads)
    within_image = (image_dual * image.unsqueeze(-3)).sum(dim=-1)  # (..., h, h', B)
    within_class = (class_dual * value.unsqueeze(-3)).sum(dim=-1)
    both = image_dual.flatten(-3, -2) @ value.mT  # (..., h, h' · B, C)
    of_pair = within_image.unsqueeze(-1) - 2 * both.unflatten(-2, (heads, -1)) + within_class.unsqueeze(-2)
    steps = (of_pair * share.unsqueeze(-4)).sum(dim=-3)  # over h': (..., h, B, C)
    product: Tensor = (share * steps).sum(dim=-3)
    return product


def _heads_first(products: Tensor, heads: int) -> Tensor:
    """Return (..., h, h', N, d) of (..., h', N, h · d)."""
    return torch.unflatten(products, -1, (heads, -1)).movedim(-2, -4)
