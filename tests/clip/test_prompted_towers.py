"""The prompted towers: without prompts the frozen CLIP, and the shared text path against all positions."""

from __future__ import annotations

import json

import open_clip
import pytest
import torch

from mmadapt.clip import ClipBackbone
from mmadapt.clip.prompted_towers import PromptedTowers
from mmadapt.clip.prompts import PromptSet, context_layout, plain_layout, word_vectors
from mmadapt.errors import UserError

NAMES = ["cat", "golden_retriever", "forest", "a very long class name indeed", "dog", "tench"]


def register(folder, name, **changes):
    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 3, "head_width": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 40, "heads": 5, "layers": 3},
    }
    for key, value in changes.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / f"{name}.json")


def sharpen(clip, factor):
    """Random weights leave attention nearly uniform; make it matter."""
    with torch.no_grad():
        for name, parameter in clip.model.named_parameters():
            if "in_proj_weight" in name:
                parameter.mul_(factor)
    return clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    register(tmp_path_factory.mktemp("models"), "towers-clip")
    return sharpen(ClipBackbone("towers-clip", None, seed=3), 2)


@pytest.fixture(scope="module")
def exact(clip):
    """The same model in float64, where two ways to compute one number agree to the last printed digit."""
    exact = sharpen(ClipBackbone("towers-clip", None, seed=3), 4)
    exact.model.double()
    return exact


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def random_prompts(*shapes):
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(shape, generator=generator).mul(0.5).requires_grad_() for shape in shapes)


def results(towers, layout, text, path, taps=0):
    """Features, taps and the gradient of a random projection of the features with respect to every prompt."""
    out = towers.encode_text(layout, PromptSet(text=text), taps=taps, path=path)
    weights = torch.randn(out.features.shape, generator=torch.Generator().manual_seed(2))
    loss = (torch.nn.functional.normalize(out.features, dim=-1) * weights).sum()
    for s in range(taps):
        for c, end in enumerate(layout.eot):
            loss = loss + out.taps[s, c, : end + 1].square().mean()
    return out, torch.autograd.grad(loss, text)


def relative(a, b):
    return float(((a - b).norm() / b.norm()).detach())


@pytest.mark.parametrize("path", ["full", "shared"])
def test_without_prompts_text_is_the_frozen_tower(clip, path):
    prompts = [f"a photo of a {name}." for name in NAMES]
    features = PromptedTowers(clip).encode_text(plain_layout(clip, prompts), path=path).features
    torch.testing.assert_close(features, clip.encode_text(prompts), atol=1e-6, rtol=1e-5)


def test_without_prompts_images_are_the_frozen_tower(clip, images):
    towers = PromptedTowers(clip)
    with torch.enable_grad():
        torch.testing.assert_close(
            towers.encode_image(images), clip.encode_image(images), atol=1e-6, rtol=1e-5
        )


def test_words_as_context_are_the_handwritten_prompt(clip):
    layout = context_layout(clip, NAMES, 2, "a photo of a")
    prompts = PromptSet(text=(word_vectors(clip, "a photo of a", 2),))
    wanted = clip.encode_text([f"a photo of a {name.replace('_', ' ')}." for name in NAMES])
    for path in ("full", "shared"):
        features = PromptedTowers(clip).encode_text(layout, prompts, path=path).features
        torch.testing.assert_close(features, wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("per_class", [False, True])
def test_shared_path_equals_all_positions(exact, position, per_class):
    towers, layout = PromptedTowers(exact), context_layout(exact, NAMES, 5, position=position)
    text = random_prompts((len(NAMES), 5, 40) if per_class else (5, 40))
    fast, fast_gradients = results(towers, layout, text, "shared")
    slow, slow_gradients = results(towers, layout, text, "full")
    torch.testing.assert_close(fast.features, slow.features, atol=1e-6, rtol=1e-6)
    assert all(relative(a, b) < 1e-6 for a, b in zip(fast_gradients, slow_gradients, strict=True))


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("taps", [0, 1, 3])
def test_shared_path_with_deep_prompts_and_taps(exact, depth, taps):
    towers, layout = PromptedTowers(exact), context_layout(exact, NAMES, 2, "a photo of a")
    text = random_prompts(*[(2, 40)] * depth)
    fast, fast_gradients = results(towers, layout, text, "shared", taps)
    slow, slow_gradients = results(towers, layout, text, "full", taps)
    torch.testing.assert_close(fast.features, slow.features, atol=1e-6, rtol=1e-6)
    assert all(relative(a, b) < 1e-6 for a, b in zip(fast_gradients, slow_gradients, strict=True))
    if taps:
        assert fast.taps.shape == (taps, len(NAMES), layout.length, 40)
        assert slow.taps.shape == (taps, len(NAMES), 77, 40)
        for c, end in enumerate(layout.eot):
            torch.testing.assert_close(
                fast.taps[:, c, : end + 1], slow.taps[:, c, : end + 1], atol=1e-6, rtol=1e-6
            )


@pytest.mark.parametrize(
    "options",
    [{"class_chunk": 1}, {"class_chunk": 4}, {"checkpoint": True}, {"class_chunk": 4, "checkpoint": True}],
)
@pytest.mark.parametrize("path", ["full", "shared"])
@pytest.mark.parametrize("per_class", [False, True])
def test_chunks_and_checkpointing_change_nothing(exact, options, path, per_class):
    layout = context_layout(exact, NAMES, 2)
    text = random_prompts((len(NAMES), 2, 40)) if per_class else random_prompts((2, 40), (2, 40))
    out, gradients = results(PromptedTowers(exact, **options), layout, text, path, taps=1)
    plain, plain_gradients = results(PromptedTowers(exact), layout, text, path, taps=1)
    assert relative(out.features, plain.features) < 1e-6
    assert relative(out.taps, plain.taps) < 1e-6
    assert all(relative(a, b) < 1e-6 for a, b in zip(gradients, plain_gradients, strict=True))


def test_one_class_keeps_its_eot(exact):
    layout = context_layout(exact, ["cat"], 4)
    text = random_prompts((4, 40))
    towers = PromptedTowers(exact)
    torch.testing.assert_close(
        *(results(towers, layout, text, path)[0].features for path in ("shared", "full")),
        atol=1e-6,
        rtol=1e-6,
    )


def test_positions_of_the_context(clip):
    tokens = clip.tokenizer.encode
    name, dot = tokens("golden retriever"), tokens(".")
    expected = {"end": [-1, 0, 1, 2, -1, -1], "middle": [-1, 0, -1, -1, 1, 2], "front": [-1, -1, -1, 0, 1, 2]}
    for position, slots in expected.items():
        layout = context_layout(clip, ["golden_retriever"], 3, position=position)
        assert layout.slots[0, :6].tolist() == slots
        kept = layout.tokens[0][layout.slots[0] < 0].tolist()
        assert kept[1 : 1 + len(name + dot)] == name + dot
        assert layout.eot.tolist() == [1 + 3 + len(name + dot)]


def naive_image_features(clip, images, prompts):
    """The formula of MaPLe, spelled out: append, layer norm, replace before each later block."""
    visual = clip.model.visual
    x = visual.conv1(images).flatten(2).mT
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], 1) + visual.positional_embedding
    tokens, count = x.shape[1], len(prompts[0])
    x = visual.ln_pre(torch.cat([x, prompts[0].expand(len(x), -1, -1)], 1))
    for i, block in enumerate(visual.transformer.resblocks):
        if 0 < i < len(prompts):
            x = torch.cat([x[:, : x.shape[1] - count], prompts[i].expand(len(x), -1, -1)], 1)
        x = block(x)
    assert x.shape[1] == tokens + count
    return visual.ln_post(x[:, 0]) @ visual.proj


def test_image_prompts(clip, images):
    prompts = random_prompts((2, 32), (2, 32), (2, 32))
    wanted = naive_image_features(clip, images, prompts)
    for checkpoint in (False, True):
        features = PromptedTowers(clip, checkpoint=checkpoint).encode_image(images, PromptSet(vision=prompts))
        torch.testing.assert_close(features, wanted, atol=1e-6, rtol=1e-5)
        for a, b in zip(
            torch.autograd.grad(features.sum(), prompts),
            torch.autograd.grad(wanted.sum(), prompts, retain_graph=True),
            strict=True,
        ):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_towers(clip, images, precision):
    low = ClipBackbone("towers-clip", None, precision=precision, seed=3)
    same = ClipBackbone("towers-clip", None, seed=3)
    layout, text = context_layout(low, NAMES, 2), random_prompts((2, 40), (2, 40))
    vision = random_prompts((2, 32), (2, 32))
    for path in ("shared", "full"):
        towers, reference = PromptedTowers(low), PromptedTowers(same)
        features = towers.encode_text(layout, PromptSet(text), path=path).features
        assert features.dtype == torch.float32
        wanted = reference.encode_text(layout, PromptSet(text), path=path).features
        assert relative(features, wanted) < 0.03
        assert torch.autograd.grad(features.sum(), text)[0].dtype == torch.float32
    features = towers.encode_image(images, PromptSet(vision=vision))
    assert relative(features, reference.encode_image(images, PromptSet(vision=vision))) < 0.03


@pytest.mark.parametrize("path", ["shared", "full"])
def test_autocast(clip, path):
    layout, text = context_layout(clip, NAMES, 2), random_prompts((2, 40), (2, 40))
    wanted = PromptedTowers(clip).encode_text(layout, PromptSet(text), path=path).features
    with torch.autocast("cpu", torch.bfloat16):
        features = PromptedTowers(clip).encode_text(layout, PromptSet(text), path=path).features
    assert features.dtype == torch.float32
    assert 0 < relative(features, wanted) < 0.1


def test_resnet_takes_text_prompts_only(tmp_path):
    register(tmp_path, "towers-resnet", vision_cfg={"layers": [1, 1, 1, 1], "width": 8})
    clip = ClipBackbone("towers-resnet", None)
    towers, images = PromptedTowers(clip), torch.randn(2, 3, 32, 32)
    assert torch.equal(towers.encode_image(images), clip.encode_image(images))
    with pytest.raises(UserError, match="vision transformer"):
        towers.encode_image(images, PromptSet(vision=(torch.zeros(2, 32),)))
    with pytest.raises(UserError, match=r"method\.coop|method=coop"):
        towers.check_depth(1)


def test_unsupported_towers_are_refused(tmp_path):
    register(tmp_path, "towers-bidirectional", text_cfg={"no_causal_mask": True})
    with pytest.raises(UserError, match="causal"):
        PromptedTowers(ClipBackbone("towers-bidirectional", None))
    register(tmp_path, "towers-last", text_cfg={"pool_type": "last"})
    with pytest.raises(UserError, match="end-of-text"):
        plain_layout(ClipBackbone("towers-last", None), ["cat"])


def test_other_blocks_take_the_full_path(tmp_path):
    register(tmp_path, "towers-scaled", text_cfg={"scale_fc": True})
    towers = PromptedTowers(ClipBackbone("towers-scaled", None))
    assert towers.text_path == "full"


def test_values_are_checked(clip):
    with pytest.raises(UserError, match="text_path"):
        PromptedTowers(clip, text_path="fast")
    with pytest.raises(UserError, match="class_chunk"):
        PromptedTowers(clip, class_chunk=0)
    with pytest.raises(UserError, match="1 to 3 layers"):
        PromptedTowers(clip).check_depth(9)
    with pytest.raises(UserError, match="position"):
        context_layout(clip, NAMES, 2, position="start")
    with pytest.raises(UserError, match="2 tokens"):
        context_layout(clip, NAMES, 4, "a photo")
    deep = PromptSet(text=random_prompts((3, 40), (3, 40)))
    with pytest.raises(UserError, match="leading"):
        PromptedTowers(clip).encode_text(context_layout(clip, NAMES, 3, position="front"), deep)
