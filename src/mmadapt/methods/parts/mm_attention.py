"""Attention of C class tokens, shared by all images, and a token of each image, without (C + 1)² scores.

A class token is the same for every image, so what class tokens say to each other is computed once; the
image's key joins their softmax afterwards, by the difference of its score and the log-sum-exp of theirs.
Leading axes (...) may stack runs. Letters: B images, C classes, h heads of width d, r = h · d.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Heads(NamedTuple):
    """Queries, keys and values of N tokens, each (..., h, N, d)."""

    query: Tensor
    key: Tensor
    value: Tensor


def project(tokens: Tensor, weight: Tensor, bias: Tensor, heads: int) -> Heads:
    """Return the heads of tokens (..., N, r) under the stacked projections (..., 3r, r) and (..., 3r)."""
    joint = tokens @ weight.mT + bias.unsqueeze(-2)
    joint = joint.reshape(*joint.shape[:-1], 3, heads, -1)
    query, key, value = joint.movedim(-3, 0).transpose(-2, -3)
    return Heads(query, key, value)


def image_update(text: Heads, image: Heads, bonus: float, sees_itself: bool, drop: float = 0.0) -> Tensor:
    """Return what each image token reads, (..., B, r), before the output projection.

    Args:
        text: Heads of the class tokens.
        image: Heads of the image tokens.
        bonus: Added to the scores between modalities.
        sees_itself: Whether the image's own key takes part.
        drop: Probability with which an attention weight is dropped.
    """
    root = math.sqrt(text.key.shape[-1])
    scores = image.query @ text.key.mT / root + bonus
    if sees_itself:
        own = (image.query * image.key).sum(dim=-1, keepdim=True) / root
        weights = F.dropout(torch.cat([scores, own], dim=-1).softmax(dim=-1), drop)
        read = weights[..., :-1] @ text.value + weights[..., -1:] * image.value
    else:
        read = F.dropout(scores.softmax(dim=-1), drop) @ text.value
    return join(read)


def join(heads: Tensor) -> Tensor:
    """Return (..., N, r) of heads (..., h, N, d)."""
    return heads.transpose(-2, -3).flatten(-2)


class Shared(NamedTuple):
    """What class tokens read from each other, and the share of it that each image replaces.

    Attributes:
        value: Their attention among themselves (..., h, C, d).
        weight: Softmax weight of the image's key for each image and class, (..., h, B, C).
    """

    value: Tensor
    weight: Tensor


def text_attention(text: Heads, image: Heads, bonus: float) -> Shared:
    """Split the attention of the class tokens into its shared part and the image's weight."""
    root = math.sqrt(text.key.shape[-1])
    scores = text.query @ text.key.mT / root
    total = scores.logsumexp(dim=-1)
    shared = (scores - total.unsqueeze(-1)).exp() @ text.value
    image_scores = image.key @ text.query.mT / root + bonus
    return Shared(shared, torch.sigmoid(image_scores - total.unsqueeze(-2)))


def text_update(shared: Shared, image: Heads, mix: Tensor, bias: Tensor) -> Tensor:
    """Return ``mix`` of what each class token reads in the presence of each image, (..., B, C, k).

    ``Σ_h (1 − w_bch) · shared_ch + w_bch · value_bh``, with the output projection applied before the sum: the
    per-pair work is a product over heads, not over features.

    Args:
        shared: From `text_attention`.
        image: Heads of the image tokens.
        mix: Output projection, perhaps with the next linear map folded in, (..., k, r).
        bias: Its bias (..., k).
    """
    heads = shared.value.shape[-3]
    per_head = mix.reshape(*mix.shape[:-1], heads, -1).movedim(-2, -3)  # (..., h, k, d)
    classes = shared.value @ per_head.mT  # (..., h, C, k)
    images = image.value @ per_head.mT  # (..., h, B, k)
    base = classes.sum(dim=-3) + bias.unsqueeze(-2)
    weight = shared.weight
    from_image = weight.movedim(-3, -1) @ images.transpose(-2, -3)  # per image: (C, h) · (h, k)
    from_class = weight.permute(*range(weight.ndim - 3), -1, -2, -3) @ classes.transpose(-2, -3)
    update: Tensor = base.unsqueeze(-3) + from_image - from_class.transpose(-2, -3)
    return update


def blend(features: Tensor, update: Tensor, ratio: float) -> Tensor:
    """Return ``n(ratio · n(update) + (1 − ratio) · features)`` over the last axis."""
    return F.normalize(ratio * F.normalize(update, dim=-1) + (1 - ratio) * features, dim=-1)


def blended_cosines(
    images: Tensor, texts: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor, ratio: float
) -> Tensor:
    """Return cosines (..., B, C) of images and of ``blend(texts, hidden · weightᵀ + bias)``, D-free per pair.

    Norms and products of the corrected texts are quadratic forms of the k hidden values: with the Gram matrix
    of ``[weight, bias]`` no vector of width D is built for a pair of image and class.

    Args:
        images: Unit image features (..., B, D).
        texts: Unit text features (..., C, D).
        hidden: Input of the last linear map, (..., B, C, k), or (..., B, 1, k) if classes share it.
        weight: The last linear map (..., D, k).
        bias: Its bias (..., D).
        ratio: Share of the correction.
    """
    if hidden.shape[-2] == 1:  # one correction for all classes: the vectors themselves are the short way
        update = F.normalize(hidden.squeeze(-2) @ weight.mT + bias.unsqueeze(-2), dim=-1)
        on_text, on_image = update @ texts.mT, (update * images).sum(dim=-1, keepdim=True)
        return cosines_of(images, texts, on_image, on_text, ratio)
    column = bias.unsqueeze(-1)
    gram, cross = weight.mT @ weight, (weight.mT @ column).squeeze(-1)
    flat = hidden.flatten(-3, -2)
    squared = ((flat @ gram + 2 * cross.unsqueeze(-2)) * flat).sum(dim=-1)
    squared = squared.reshape(hidden.shape[:-1]) + (bias * bias).sum(dim=-1)[..., None, None]
    inverse = squared.clamp_min(1e-24).rsqrt()  # (..., B, C | 1)
    on_text = (hidden * (texts @ weight).unsqueeze(-3)).sum(dim=-1) + (texts @ column).mT
    on_image = (hidden @ (images @ weight).unsqueeze(-1)).squeeze(-1) + images @ column
    return cosines_of(images, texts, inverse * on_image, inverse * on_text, ratio)


def cosines_of(images: Tensor, texts: Tensor, on_image: Tensor, on_text: Tensor, ratio: float) -> Tensor:
    """Return cosines of images and blended texts, given products of the unit corrections with both."""
    keep = 1 - ratio
    product: Tensor = keep * (images @ texts.mT) + ratio * on_image
    texts_squared = (texts * texts).sum(dim=-1).unsqueeze(-2)
    length = ratio * ratio + keep * keep * texts_squared + 2 * ratio * keep * on_text
    cosines: Tensor = product * length.clamp_min(1e-24).rsqrt()
    return cosines
