"""CoOp: contexts, counts, schedule, one text pass per class list, training from features."""

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
from mmadapt.config.schema import register_resolvers
from mmadapt.data.base import ClassSet
from mmadapt.errors import UserError
from mmadapt.features.encoder import FeatureSet
from mmadapt.methods.coop import CoOp
from mmadapt.methods.parts.schedules import DasslCosine
from mmadapt.methods.zero_shot import ZeroShot
from mmadapt.training.feature_data import BatchLoader, EpochLoader
from mmadapt.training.trainer import ScaledGradients

CLASSES = ClassSet(("cat", "golden_retriever", "forest", "tench"), ("a photo of a {}.",))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "coop-clip.json"
    vision = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
    text = {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    path.write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(path)
    return ClipBackbone("coop-clip", None, seed=1)


def batch(clip, count=8):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, clip.dim, generator=generator), torch.arange(count) % len(CLASSES)


def test_from_words_it_starts_as_zero_shot(clip):
    images = torch.randn(2, 3, 32, 32)
    method = CoOp(clip, CLASSES, ctx_init="a photo of a")
    torch.testing.assert_close(method(images), ZeroShot(clip, CLASSES)(images), atol=1e-4, rtol=1e-5)
    assert method.n_ctx == 4, "the words decide the number, as released"
    assert torch.equal(method(clip.encode_image(images)), method(images))


@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_logits_are_the_formula(clip, position):
    """Splice embeddings by hand, as the paper's eq. 2 and the released code do."""
    method, (features, labels) = CoOp(clip, CLASSES, n_ctx=4, position=position), batch(clip)
    owner, rows = clip.model, []
    for name in CLASSES.names:
        name = name.replace("_", " ")
        tokens = clip.tokenize([f"X X X X {name}."])
        embedded, length = owner.token_embedding(tokens)[0], len(clip.tokenizer.encode(name))
        word, rest = embedded[5 : 5 + length], embedded[5 + length :]
        middle = {
            "end": [method.ctx, word],
            "middle": [method.ctx[:2], word, method.ctx[2:]],
            "front": [word, method.ctx],
        }[position]
        x = torch.cat([embedded[:1], *middle, rest])[None] + owner.positional_embedding
        x = owner.ln_final(owner.transformer(x, attn_mask=owner.attn_mask))[0, tokens.argmax()]
        rows.append(x @ owner.text_projection)
    logits = clip.logit_scale.exp() * F.normalize(features, dim=-1) @ F.normalize(torch.stack(rows), dim=-1).T
    torch.testing.assert_close(method(features), logits, atol=1e-4, rtol=1e-5)
    loss = F.cross_entropy(logits, labels)
    torch.testing.assert_close(method.loss((features, labels)), loss, atol=1e-5, rtol=1e-5)
    wanted, got = (
        torch.autograd.grad(value, method.ctx)[0] for value in (loss, method.loss((features, labels)))
    )
    assert (wanted - got).norm() < 1e-4 * wanted.norm()


def test_class_specific_contexts_that_agree_are_a_shared_one(clip):
    shared, own = CoOp(clip, CLASSES, n_ctx=3), CoOp(clip, CLASSES, n_ctx=3, class_specific=True)
    own.load_state_dict({"ctx": shared.ctx.detach().repeat(4, 1, 1)})
    torch.testing.assert_close(own(batch(clip)[0]), shared(batch(clip)[0]), atol=1e-4, rtol=1e-5)
    for method in (shared, own):
        method.loss(batch(clip)).backward()
    torch.testing.assert_close(own.ctx.grad.sum(0), shared.ctx.grad, atol=1e-5, rtol=1e-4)


def test_parameter_counts(counting_clip):
    clip = counting_clip
    count = lambda **options: sum(p.numel() for p in CoOp(clip, CLASSES, **options).trainable_parameters())  # noqa: E731
    assert count(ctx_init="a photo of a") == 2_048
    assert count(n_ctx=16) == 8_192
    assert count(n_ctx=16, class_specific=True) == 4 * 8_192
    assert [name for name, p in CoOp(clip, CLASSES).named_parameters() if p.requires_grad] == ["ctx"]
    assert set(CoOp(clip, CLASSES).state_dict()) == {"ctx"}


def test_text_features_are_computed_once_until_the_prompt_changes(clip, monkeypatch):
    method, features = CoOp(clip, CLASSES, n_ctx=3), batch(clip)[0]
    calls, run = [], method.towers.text.shared
    monkeypatch.setattr(method.towers.text, "shared", lambda *a: calls.append(1) or run(*a))
    with torch.no_grad():
        before = method(features)
        method(features[:2])
        assert len(calls) == 1
        method.ctx.data.normal_()  # also an edit that autograd does not see
        assert not torch.equal(method(features), before)
        assert len(calls) == 2
    method(features)
    method(features)
    assert len(calls) == 4, "with gradients every step computes its own"


def test_weights_fit_another_class_list(clip):
    other = CoOp(clip, ClassSet(("dog", "very big house")), n_ctx=3)
    method = CoOp(clip, CLASSES, n_ctx=3)
    other.load_state_dict(method.state_dict())
    assert torch.equal(other.ctx, method.ctx)
    assert other(batch(clip)[0]).shape == (8, 2)
    with pytest.raises(UserError, match="missing"):
        other.load_state_dict({})


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_towers_train_float32_parameters(clip, precision):
    low = ClipBackbone("coop-clip", None, precision=precision, seed=1)
    method = CoOp(low, CLASSES, n_ctx=3, ctx_init="a photo of")
    loss = method.loss(batch(low))
    loss.backward()
    assert method.ctx.dtype == method.ctx.grad.dtype == loss.dtype == torch.float32
    assert method.ctx.grad.isfinite().all()
    assert method.ctx.grad.norm() > 0


def test_schedule_of_the_recipe():
    """The trace of the released framework: a warm-up epoch, then a cosine that never reaches zero."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=3.5e-3)
    schedule, rates = DasslCosine(optimizer, 5), []
    for _ in range(5):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([1e-5, 0.0035, 0.003166, 0.002291, 0.001209], abs=5e-7)


@pytest.mark.parametrize(("shots", "epochs"), [(1, 50), (2, 100), (4, 100), (8, 200), (16, 200)])
def test_epochs_follow_the_shots(shots, epochs):
    from omegaconf import OmegaConf

    from mmadapt.config.paths import CONF_DIR

    register_resolvers()
    node = OmegaConf.create({"shots": shots, "method": OmegaConf.load(CONF_DIR / "method" / "coop.yaml")})
    assert node.method.epochs == epochs


def test_training_lowers_the_loss(clip):
    torch.manual_seed(0)
    method, data = CoOp(clip, CLASSES, n_ctx=4), batch(clip)
    optimizer = torch.optim.SGD(method.trainable_parameters(), lr=0.05, momentum=0.9)
    losses = losses_of(method, data, optimizer, steps=15)
    assert losses[-1] < losses[0]
    assert all(p.grad is None for p in clip.parameters())


def test_values_are_checked(clip):
    for options, word in (
        ({"n_ctx": 0}, "n_ctx"),
        ({"position": "back"}, "position"),
        ({"n_ctx": 40}, "tokens"),
    ):
        with pytest.raises(UserError, match=word):
            CoOp(clip, CLASSES, **options)


@pytest.mark.parametrize(
    ("towers", "trainer"), [("fp16", "32-true"), ("bf16", "32-true"), ("fp32", "bf16-mixed")]
)
def test_lightning_trains_float32_prompts(clip, towers, trainer):
    low = ClipBackbone("coop-clip", None, precision=towers, seed=1)
    method = CoOp(low, CLASSES, n_ctx=3, optimizer=partial(torch.optim.SGD, lr=0.05))
    before = method.ctx.detach().clone()
    features, labels = batch(low)
    loader = BatchLoader(EpochLoader(FeatureSet(features[None], labels), 4, 0))
    fit = Trainer(
        max_epochs=5, accelerator="cpu", precision=trainer, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    if towers == "fp16":
        fit.strategy.precision_plugin = ScaledGradients("16-mixed", "cpu")
    fit.fit(method, train_dataloaders=loader)
    assert method.ctx.dtype == torch.float32
    assert method.ctx.isfinite().all()
    assert not torch.equal(method.ctx, before)
