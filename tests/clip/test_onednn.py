"""Towers laid out for oneDNN: the same numbers, and an original that is left alone."""

import pytest
import torch
from torch import nn

from mmadapt.clip.onednn import PackedAttention, PackedLinear, packable, packed_copy

onednn = pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="MKL is what it replaces")


@onednn
def test_packed_towers_are_the_towers(small_clip):
    assert packable(small_clip)
    fast = packed_copy(small_clip)
    kinds = {type(module) for module in fast.modules()}
    assert {PackedLinear, PackedAttention} <= kinds
    assert not any(isinstance(module, PackedLinear | PackedAttention) for module in small_clip.modules())
    pixels = torch.randn(5, 3, *small_clip.transform.size, generator=torch.Generator().manual_seed(0))
    prompts = ["a photo of a cat", "dog", "a very long description of a bird"]
    with torch.no_grad():
        torch.testing.assert_close(
            fast.encode_image(pixels), small_clip.encode_image(pixels), rtol=1e-5, atol=1e-6
        )
        torch.testing.assert_close(
            fast.encode_text(prompts), small_clip.encode_text(prompts), rtol=1e-5, atol=1e-6
        )


@onednn
def test_weights_are_shared_and_the_original_is_left_alone(small_clip):
    before = list(small_clip.state_dict())
    fast = packed_copy(small_clip)
    shared = {tensor.data_ptr() for tensor in small_clip.model.parameters()}
    assert {tensor.data_ptr() for tensor in fast.model.parameters()} <= shared
    assert list(small_clip.state_dict()) == before


@onednn
@pytest.mark.parametrize("call", ["weights", "cross", "bool", "padding", "causal", "float mask", "plain"])
def test_attention_in_every_use_is_the_original(call):
    torch.manual_seed(0)
    original = nn.MultiheadAttention(16, 4, batch_first=True).eval().requires_grad_(False)
    nn.init.normal_(original.in_proj_bias)
    x, other = torch.randn(3, 5, 16), torch.randn(3, 7, 16)
    upper = torch.ones(5, 5, dtype=torch.bool).triu(1)
    inputs, options = (x, x, x), {"need_weights": False}
    if call == "weights":
        options = {"need_weights": True}
    elif call == "cross":
        inputs = (x, other, other)
    elif call == "bool":
        options["attn_mask"] = upper
    elif call == "padding":
        options["key_padding_mask"] = torch.arange(5).expand(3, 5) > 3
    elif call == "causal":
        options |= {"attn_mask": upper, "is_causal": True}
    elif call == "float mask":
        options["attn_mask"] = torch.zeros(5, 5).masked_fill(upper, -torch.inf)
    got, expected = PackedAttention(original)(*inputs, **options), original(*inputs, **options)
    torch.testing.assert_close(got[0], expected[0], rtol=1e-5, atol=1e-6)
    assert (got[1] is None) == (expected[1] is None)


def test_only_float32_is_packed(small_clip):
    class Half:
        device, dtype = torch.device("cpu"), torch.bfloat16

    assert not packable(Half())
