"""CoCoOp: one prefix per image against whole prompts, the meta-net, other classes, training, what is refused."""

from __future__ import annotations

import json
from functools import partial

import open_clip
import pytest
import torch
from lightning import Trainer
from tests.support.training import losses_of
from torch.nn import functional as F

from mmadapt.clip import ClipBackbone
from mmadapt.clip.prompted_towers import PromptedTowers
from mmadapt.clip.prompts import context_layout
from mmadapt.data.base import ClassSet
from mmadapt.errors import UserError
from mmadapt.features.encoder import FeatureSet
from mmadapt.methods.cocoop import CoCoOp
from mmadapt.methods.coop import CoOp
from mmadapt.training.feature_data import BatchLoader, EpochLoader

NAMES = ("cat", "golden_retriever", "forest", "a very long class name indeed", "dog", "tench")
CLASSES = ClassSet(NAMES, ("a photo of a {}.",))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "cocoop-clip.json"
    vision = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 40, "heads": 5, "layers": 3}
    path.write_text(json.dumps({"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(path)
    clip = ClipBackbone("cocoop-clip", None, seed=3)
    with torch.no_grad():
        for name, parameter in clip.model.named_parameters():
            if "in_proj_weight" in name:
                parameter.mul_(3)  # random weights leave attention nearly uniform; make it matter
    return clip


def build(clip, classes=CLASSES, **options):
    """A CoCoOp whose meta-net says something: at its start its output is small beside the context."""
    torch.manual_seed(0)
    method = CoCoOp(clip, classes, **options)
    with torch.no_grad():
        method.meta_net.linear2.weight.mul_(20)
        method.ctx.add_(0.1 * torch.randn(method.ctx.shape))
    return method


def batch(clip, count):
    generator = torch.Generator().manual_seed(count)
    return 3 * torch.randn(count, clip.dim, generator=generator), torch.arange(count) % len(CLASSES)


def gradients(method, data):
    method.zero_grad()
    method.loss(data).backward()
    return {name: p.grad.clone() for name, p in method.named_parameters() if p.requires_grad}


def spelled_out(method, features):
    """The released loop: of each image C whole prompts, embeddings spliced, through open_clip's own tower."""
    clip, owner, rows = method.clip, method.clip.model, []
    tokens = clip.tokenize([f"a photo of a {name.replace('_', ' ')}." for name in method.classes.names])
    embedded = owner.token_embedding(tokens)
    images, n = F.normalize(features, dim=-1), method.n_ctx
    one, two = method.meta_net.linear1, method.meta_net.linear2
    for image in images:
        bias = two.weight @ (one.weight @ image + one.bias).relu() + two.bias
        context = (method.ctx + bias).expand(len(tokens), -1, -1)
        x = torch.cat([embedded[:, :1], context, embedded[:, 1 + n :]], 1) + owner.positional_embedding
        x = owner.ln_final(owner.transformer(x, attn_mask=owner.attn_mask))
        texts = x[torch.arange(len(tokens)), tokens.argmax(-1)] @ owner.text_projection
        rows.append(clip.logit_scale.exp() * F.normalize(texts, dim=-1) @ image)
    return torch.stack(rows)


@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize("path", ["shared", "full"])
def test_logits_and_gradients_are_the_formula(clip, count, path):
    method, data = build(clip, text_path=path), batch(clip, count)
    wanted = spelled_out(method, data[0])
    torch.testing.assert_close(method(data[0]), wanted, atol=1e-4, rtol=1e-5)
    got = gradients(method, data)
    method.zero_grad()
    F.cross_entropy(wanted, data[1]).backward()
    assert set(got) == {"ctx", *(f"meta_net.linear{i}.{part}" for i in (1, 2) for part in ("weight", "bias"))}
    for name, parameter in method.named_parameters():
        if name in got:
            assert parameter.grad.norm() > 0
            assert (got[name] - parameter.grad).norm() < 1e-4 * parameter.grad.norm(), name


@pytest.mark.parametrize(
    "options",
    [{"class_chunk": 1}, {"class_chunk": 4}, {"checkpoint": True}, {"class_chunk": 4, "checkpoint": True},
     {"image_chunk": 1}, {"image_chunk": 3, "class_chunk": 4}],
)  # fmt: skip
@pytest.mark.parametrize("path", ["shared", "full"])
def test_chunks_and_checkpointing_change_nothing(clip, options, path):
    plain, other, data = build(clip), build(clip, text_path=path, **options), batch(clip, 5)
    torch.testing.assert_close(other(data[0]), plain(data[0]), atol=1e-4, rtol=1e-5)
    wanted, got = gradients(plain, data), gradients(other, data)
    for name, gradient in wanted.items():
        assert (got[name] - gradient).norm() < 1e-4 * gradient.norm(), name


@pytest.mark.parametrize("path", ["shared", "full"])
def test_an_image_alone_is_the_image_within_a_batch(clip, path):
    method, features = build(clip, text_path=path), batch(clip, 7)[0]
    with torch.no_grad():
        together = method(features)
        alone = torch.cat([method(row[None]) for row in features])
    torch.testing.assert_close(alone, together, atol=1e-4, rtol=1e-5)
    texts = method.towers.encode_text_per_image(
        method.layout, method.contexts(F.normalize(features, dim=-1)), path=path
    )
    assert texts.shape == (7, len(NAMES), clip.dim)
    assert (texts[0] - texts[1]).norm() > 0.01 * texts[0].norm(), "prompts differ per image"


def test_as_many_contexts_as_classes_are_still_contexts_of_images(clip):
    """A batch of C images has the shape of CoOp's class-specific contexts and must not be taken for it."""
    features, other = batch(clip, len(CLASSES))[0], batch(clip, len(CLASSES) + 1)[0]
    method = build(clip)
    torch.testing.assert_close(method(features), spelled_out(method, features), atol=1e-4, rtol=1e-5)
    assert method(other).shape == (len(CLASSES) + 1, len(CLASSES))


def test_parameter_count(counting_clip):
    """512 · 32 + 32 + 32 · 512 + 512 in the meta-net, 4 · 512 in the context, at the widths of ViT-B/16."""
    method = CoCoOp(counting_clip, CLASSES)
    assert sum(p.numel() for p in method.trainable_parameters()) == 35_360
    assert method.ctx.numel() == 2_048
    assert {p.dtype for p in method.trainable_parameters()} == {torch.float32}


def test_a_silent_meta_net_is_coop(clip):
    method, coop = build(clip), CoOp(clip, CLASSES, ctx_init="a photo of a")
    with torch.no_grad():
        method.meta_net.linear2.weight.zero_()
        method.meta_net.linear2.bias.zero_()
        coop.ctx.copy_(method.ctx)
        features = batch(clip, 6)[0]
        scale = method.scale  # cosines agree to 1e-6
        torch.testing.assert_close(method(features) / scale, coop(features) / scale, atol=1e-6, rtol=0)


def test_other_classes_get_the_same_context(clip):
    other = ClassSet(("dog", "very big house"), ("a photo of a {}.",))
    method, features = build(clip), batch(clip, 4)[0]
    with torch.no_grad():
        before = method(features)
        twin = method.for_classes(other, torch.empty(2, clip.dim))
        torch.testing.assert_close(twin(features), spelled_out(twin, features), atol=1e-4, rtol=1e-5)
        fresh = CoCoOp(clip, other)
        fresh.load_state_dict(method.state_dict())
        assert torch.equal(fresh(features), twin(features))
        assert torch.equal(method(features), before), "the trained method keeps its own classes"
        method.ctx.data.normal_()  # nothing is kept from before
        torch.testing.assert_close(twin(features), spelled_out(twin, features), atol=1e-4, rtol=1e-5)
    assert twin.transfer == "names"


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_lightning_trains_float32_parameters(clip, precision):
    low = ClipBackbone("cocoop-clip", None, precision=precision, seed=3)
    method = CoCoOp(low, CLASSES, optimizer=partial(torch.optim.SGD, lr=0.02))
    before = {name: p.detach().clone() for name, p in method.named_parameters() if p.requires_grad}
    features, labels = batch(low, 6)
    fit = Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    fit.fit(method, train_dataloaders=BatchLoader(EpochLoader(FeatureSet(features[None], labels), 1, 0)))
    for name, parameter in method.named_parameters():
        if name in before:
            assert parameter.dtype == torch.float32
            assert parameter.isfinite().all()
            assert not torch.equal(parameter, before[name]), name


def test_training_lowers_the_loss_and_leaves_clip_alone(clip):
    torch.manual_seed(0)
    method, data = CoCoOp(clip, CLASSES), batch(clip, 6)
    optimizer = torch.optim.SGD(method.trainable_parameters(), lr=0.02, momentum=0.9)
    losses = losses_of(method, data, optimizer, steps=15)
    assert losses[-1] < 0.8 * losses[0]
    assert all(p.grad is None for p in clip.parameters())


def test_values_are_checked(clip):
    for options, word in (
        ({"image_chunk": 0}, "image_chunk"),
        ({"reduction": 0}, "reduction"),
        ({"reduction": 33}, "1 to 32"),
        ({"position": "middle"}, "position=end"),
        ({"class_chunk": 0}, "class_chunk"),
        ({"ctx_init": None, "n_ctx": 0}, "n_ctx"),
    ):
        with pytest.raises(UserError, match=word):
            CoCoOp(clip, CLASSES, **options)
    for position in ("middle", "front"):
        layout = context_layout(clip, NAMES, 4, position=position)
        for path in ("shared", "full"):
            with pytest.raises(UserError, match="before the class names"):
                PromptedTowers(clip).encode_text_per_image(layout, torch.zeros(2, 4, 40), path=path)
