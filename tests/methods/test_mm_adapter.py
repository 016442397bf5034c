"""Multi-Modal Adapter: fast path against plain attention, parameter counts, what the hard mask does."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmadapt.data.base import ClassSet
from mmadapt.errors import UserError
from mmadapt.methods.mm_adapter import MMAdapter

D, C, B = 32, 7, 5


class StubClip(torch.nn.Module):
    """What a feature-level method needs of a backbone."""

    def __init__(self, dim=D):
        super().__init__()
        self.dim = dim
        self.logit_scale = torch.nn.Parameter(torch.tensor(3.0), requires_grad=False)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def build(dim=D, classes=C, dtype=torch.float32, **options):
    torch.manual_seed(3)
    texts = F.normalize(random(classes, dim, seed=1), dim=-1)
    names = ClassSet(tuple(f"c{i}" for i in range(classes)))
    method = MMAdapter(clip=StubClip(dim), classes=names, text_features=texts, **options)
    with torch.no_grad():  # default biases are zero in places; random ones test more
        for parameter in method.trainable_parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    method = method.to(dtype).eval()
    method.text_features = unit(method.text_features)
    return method


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def oracle(method, features, mask, adapt):
    """The released computation, restated: sequence-first tokens, an additive mask for each image and head."""
    texts, images = unit(method.text_features), unit(features)
    count, batch = len(texts), len(images)
    allowed, other = {"hard": (0.0, -torch.inf), "soft": (1.0, 0.0), "none": (0.0, 0.0)}[mask]
    added = torch.full((count + 1, count + 1), other, dtype=features.dtype)
    added[:count, count] = added[count, :count] = allowed
    tokens = torch.cat([texts[:, None].repeat(1, batch, 1), images[None]])
    low = method.down(tokens)
    if isinstance(method.attention, nn.MultiheadAttention):
        heads = method.attention.num_heads
        low = method.attention(low, low, low, attn_mask=added.repeat(batch * heads, 1, 1))[0]
    else:
        low = method.attention(low, src_mask=added)
    update = unit(method.up(low))
    adapted_texts = unit(0.2 * update[:count] + 0.8 * tokens[:count])
    adapted_images = unit(0.2 * update[count] + 0.8 * images)
    if adapt == "image":
        adapted_texts = tokens[:count]
    if adapt == "text":
        adapted_images = images
    return method.scale * torch.einsum("bd,cbd->bc", adapted_images, adapted_texts)


@pytest.mark.parametrize(
    ("mask", "bottleneck", "block", "adapt"),
    [
        *itertools.product(["hard", "soft", "none"], ["linear", "lowrank", "mlp"], ["mha", "transformer"], ["both"]),
        *itertools.product(["hard", "soft"], ["linear", "lowrank"], ["mha"], ["image", "text"]),
    ],
)  # fmt: skip
def test_fast_path_equals_plain_attention(mask, bottleneck, block, adapt):
    method = build(mask=mask, bottleneck=bottleneck, block=block, adapt=adapt, dtype=torch.float64)
    features, labels = 5 * random(B, D, seed=2).double(), torch.arange(B) % C
    expected = oracle(method, features, mask, adapt)
    torch.testing.assert_close(method(features), expected, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(method.plain_logits(features), expected, atol=1e-9, rtol=1e-9)
    parameters = method.trainable_parameters()
    slow = torch.autograd.grad(F.cross_entropy(expected, labels), parameters, allow_unused=True)
    fast = torch.autograd.grad(method.loss((features, labels)), parameters, allow_unused=True)
    scale = max(g.abs().max() for g in slow if g is not None)
    for one, other in zip(fast, slow, strict=True):
        one = torch.zeros(()) if one is None else one
        other = torch.zeros(()) if other is None else other
        assert (one - other).abs().max() <= 1e-9 * scale


@pytest.mark.parametrize(("mask", "bottleneck"), [("hard", "linear"), ("soft", "lowrank")])
def test_single_precision_gradients(mask, bottleneck):
    method = build(dim=512, classes=40, mask=mask, bottleneck=bottleneck)
    features, labels = 9 * random(B, 512, seed=2), torch.arange(B)
    parameters = method.trainable_parameters()
    expected = oracle(method, features, mask, "both")
    torch.testing.assert_close(method(features), expected, atol=1e-4, rtol=1e-5)
    slow = torch.autograd.grad(F.cross_entropy(expected, labels), parameters)
    fast = torch.autograd.grad(method.loss((features, labels)), parameters)
    error = torch.cat([(a - b).flatten() for a, b in zip(fast, slow, strict=True)]).norm()
    assert error < 1e-5 * torch.cat([g.flatten() for g in slow]).norm()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 197_760),
        ({"bottleneck": "lowrank", "mask": "soft"}, 107_712),
        ({"bottleneck": "lowrank", "adapt": "image"}, 107_712),
        ({"block": "transformer"}, 724_736),
        ({"bottleneck": "mlp"}, 230_784),
        ({"bottleneck": "mlp", "block": "transformer"}, 757_760),
        ({"bottleneck": "lowrank", "width": 256, "rank": 32}, None),
    ],
)
def test_parameter_counts_at_width_512(options, expected):
    count = sum(p.numel() for p in build(dim=512, **options).trainable_parameters())
    assert count == expected or (expected is None and count > 197_760)


def test_hard_mask_moves_all_class_texts_alike():
    """Then only the length of the corrected text can tell classes apart, in closed form."""
    method = build()
    images, texts = unit(4 * random(B, D, seed=2)), method.text_features
    tokens = method.down(images)
    value = method.attention.in_proj_weight[2 * 8 :] @ tokens.T + method.attention.in_proj_bias[2 * 8 :, None]
    shared = unit(method.up(method.attention.out_proj(value.T)))
    method.adapted = "text"
    cosine = shared @ texts.T
    expected = (0.8 * images @ texts.T + 0.2 * (images * shared).sum(-1, keepdim=True)) / (
        0.68 + 0.32 * cosine
    ).sqrt()
    torch.testing.assert_close(method(images), method.scale * expected, atol=1e-4, rtol=1e-4)


def test_zero_ratios_are_zero_shot():
    for mask in ("hard", "soft"):
        method = build(image_ratio=0.0, text_ratio=0.0, mask=mask)
        features = 4 * random(B, D, seed=2)
        expected = method.scale * unit(features) @ method.text_features.T
        torch.testing.assert_close(method(features), expected, atol=1e-4, rtol=1e-4)


def test_new_classes_can_be_given():
    method = build()
    other = build(classes=C + 4)
    other.load_state_dict(method.state_dict())
    assert other(random(B, D)).shape == (B, C + 4)


@pytest.mark.parametrize("mask", ["hard", "soft"])
def test_transformer_layer_drops_in_training_only(mask):
    method = build(block="transformer", mask=mask, dropout=0.5)
    features = random(B, D)
    assert torch.equal(method(features), method(features))
    method.train()
    assert not torch.equal(method(features), method(features))
    method.attention.self_attn.dropout = 0.0
    for part in ("dropout", "dropout1", "dropout2"):
        getattr(method.attention, part).p = 0.0
    torch.testing.assert_close(method(features), method.eval()(features), atol=1e-5, rtol=1e-5)


def test_fast_path_keeps_no_pair_of_classes_per_image():
    """Peak of what is kept for the backward pass: no tensor with B · C · C entries."""
    method, batch, classes = build(classes=60, mask="soft"), 16, 60
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        method(random(batch, D))
    assert max(sizes) < batch * classes * classes


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"mask": "+1"}, "hard, soft or none"),
        ({"bottleneck": "low"}, "lowrank"),
        ({"heads": 3, "width": 8}, "heads=3 divide"),
        ({"image_ratio": 2}, r"\[0, 1\]"),
        ({"patience": 0}, "patience"),
    ],
)
def test_wrong_values_are_refused(options, word):
    with pytest.raises(UserError, match=word):
        build(**options)
