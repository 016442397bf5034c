"""One residual block of CLIP: as open_clip runs it, and on packed tokens behind shared keys and values."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Groups = tuple[tuple[int, int], ...]
"""``(count, length)`` of runs of equally long classes, in packed order."""


def is_standard_block(block: nn.Module) -> bool:
    """Whether a block is layer norm, joint projection, softmax attention, residual, layer norm, MLP, residual."""
    attn = getattr(block, "attn", None)
    extras = ("ln_attn", "ln_q", "ln_k", "q_norm", "k_norm", "logit_scale", "head_scale")
    return (
        all(hasattr(block, part) for part in ("ln_1", "ls_1", "ln_2", "ls_2", "mlp"))
        and type(block).__name__ == "ResidualAttentionBlock"
        and getattr(attn, "in_proj_weight", None) is not None
        and not any(getattr(attn, extra, None) is not None for extra in extras)
    )


def run_block(block: Any, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Run one residual block on (B, L, d), whichever axis order its attention wants."""
    if getattr(block.attn, "batch_first", True):
        return cast("Tensor", block(x, attn_mask=mask))
    return cast("Tensor", block(x.transpose(0, 1), attn_mask=mask).transpose(0, 1))


def packed_block(
    block: Any, x: Tensor, key: Tensor, value: Tensor, groups: Groups, only: Tensor | None
) -> Tensor:
    """Run a block on packed tokens (…, N, d) before which every class has the same keys and values (…, H, P, d_h).

    Args:
        block: The block.
        x: States of the packed tokens; leading axes are images with keys and values of their own.
        key: Shared keys.
        value: Shared values.
        groups: ``(count, length)`` of runs of equally long classes.
        only: Rows, one for each class, to which queries and result are restricted: (…, C, d) comes back.
    """
    query, own_key, own_value = project_in(block, x)
    if only is not None:
        query, x = query[..., only, :], x[..., only, :]
    heads = split_heads(query * key.shape[-1] ** -0.5, block)
    before = heads @ key.mT  # (…, H, N, P)
    outputs, token, row = [], 0, 0
    for count, length in groups:
        asked = length if only is None else 1
        own = slice(token, token + count * length)
        asking = slice(row, row + count * asked)
        token, row = own.stop, asking.stop
        group_query = _group(heads[..., asking, :], count)
        group_key = _group(split_heads(own_key[..., own, :], block), count)
        group_value = _group(split_heads(own_value[..., own, :], block), count)
        scores = group_query @ group_key.mT  # (…, count, H, asked, length)
        if asked > 1:
            scores = scores + _causal(length, scores)
        both = torch.cat([_group(before[..., asking, :], count), scores], dim=-1)
        weights = both.softmax(dim=-1, dtype=torch.promote_types(both.dtype, torch.float32)).to(
            group_value.dtype
        )
        shared, own_weights = torch.split(weights, [key.shape[-2], length], dim=-1)
        attended = own_weights @ group_value  # (…, count, H, asked, d_h)
        attended = attended + _group(shared.transpose(-4, -3).flatten(-3, -2) @ value, count)
        outputs.append(attended.transpose(-3, -2).flatten(-2).flatten(-3, -2))
    return finish(block, x, torch.cat(outputs, dim=-2))


def project_in(block: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values of states (..., d), each (..., d)."""
    query, key, value = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(
        3, dim=-1
    )
    return query, key, value


def finish(block: Any, x: Tensor, attended: Tensor) -> Tensor:
    """Return the block's output, given its input and the concatenated heads, all (..., d)."""
    x = x + block.ls_1(block.attn.out_proj(attended))
    return cast("Tensor", x + block.ls_2(block.mlp(block.ln_2(x))))


def split_heads(x: Tensor, block: Any) -> Tensor:
    """Return states (…, N, d) as heads (…, H, N, d_h)."""
    return torch.unflatten(x, -1, (block.attn.num_heads, -1)).transpose(-3, -2)


def _group(x: Tensor, count: int) -> Tensor:
    """Return (…, H, count · length, k) as (…, count, H, length, k)."""
    return torch.unflatten(x, -2, (count, -1)).transpose(-4, -3)


def _causal(length: int, like: Tensor) -> Tensor:
    return torch.full((length, length), -torch.inf, dtype=like.dtype, device=like.device).triu(1)
