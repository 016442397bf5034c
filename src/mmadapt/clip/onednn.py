"""A frozen CLIP whose matrix products run in oneDNN on a CPU, its weights laid out for it once.

torch gives float32 products on x86 to MKL, which leaves half of an AMD core's AVX-512 unused: 95 against 215
GFLOP/s per core on Zen 5, while oneDNN does as well as MKL on Intel. The formulas are the same, the sums are
rounded in another order, so stored features say which kernels made them.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmadapt.clip import ClipBackbone


def packable(clip: ClipBackbone) -> bool:
    """Whether the towers gain: float32 on an x86 CPU. Products in bf16 go to oneDNN anyway."""
    return (
        clip.device.type == "cpu"
        and clip.dtype == torch.float32
        and torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
        # The operators of torch.compile; they are no public interface.
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


def packed_copy(clip: ClipBackbone) -> ClipBackbone:
    """Return a copy for inference; it shares all weights and holds those of its linear layers a second time."""
    shared = {id(tensor): tensor for tensor in (*clip.model.parameters(), *clip.model.buffers())}
    twin = copy.copy(clip)
    model = copy.deepcopy(clip.model, shared)
    _pack(model)
    twin.__dict__["_modules"] = {**clip._modules, "model": model}
    return twin


def _pack(module: nn.Module) -> None:
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            setattr(module, name, PackedLinear(child))
        elif type(child) is nn.MultiheadAttention and _plain(child):
            setattr(module, name, PackedAttention(child))
        else:
            _pack(child)


def _plain(attention: nn.MultiheadAttention) -> bool:
    return (
        attention.batch_first
        and attention.in_proj_weight is not None
        and attention.bias_k is None
        and not attention.add_zero_attn
    )


class PackedLinear(nn.Module):
    """A linear layer; no gradient flows through it."""

    def __init__(self, linear: nn.Linear) -> None:
        """Lay out the weight."""
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias  # towers read their dtype off a weight
        self.product = _Product(linear.weight, linear.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return inputs (..., in) times the weight plus bias, (..., out)."""
        return self.product(inputs)


class PackedAttention(nn.Module):
    """Self-attention of an `nn.MultiheadAttention` in evaluation; all other calls go to the original."""

    def __init__(self, original: nn.MultiheadAttention) -> None:
        """Lay out both weights."""
        super().__init__()
        self.original, self.heads = original, original.num_heads
        self.inward = _Product(original.in_proj_weight, original.in_proj_bias)
        self.outward = _Product(original.out_proj.weight, original.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        **more: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the attended values (B, L, D) and no weights.

        A boolean mask means the opposite in `scaled_dot_product_attention`; it goes to the original.
        """
        own = query is key and key is value and query.dim() == 3 and not need_weights and not more
        if not own or (attn_mask is not None and (attn_mask.dtype == torch.bool or attn_mask.dim() != 2)):
            result: tuple[Tensor, Tensor | None] = self.original(
                query, key, value, need_weights=need_weights, attn_mask=attn_mask, **more
            )
            return result
        batch, length, width = query.shape
        split = self.inward(query).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        return self.outward(attended.transpose(1, 2).reshape(batch, length, width)), None


class _Product:
    """Not a module: the second layout of a weight is no parameter."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
        self.bias = None if bias is None else bias.detach()

    def __call__(self, inputs: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, self.weight, self.bias, "none", [], "")
        return product
