"""COMMA: generators in and out of the graph, the distance to CLIP's tokens, counts, the collapse of the tokens."""

from __future__ import annotations

import json

import open_clip
import pytest
import torch
from tests.support.naive_prompts import CLASSES, naive_logits
from torch.nn import functional as F

from mmadapt.clip import ClipBackbone
from mmadapt.data.base import ClassSet
from mmadapt.errors import UserError
from mmadapt.methods.comma import COMMA

PETS = ClassSet(CLASSES.names, ("a photo of a {}, a type of pet.",))


def prompt_spread(prompts):
    """Return, for each layer, how far the image prompts stand apart: max distance to their mean over its norm."""
    spreads = []
    for vision in prompts.vision:
        mean = vision.mean(dim=0, keepdim=True)
        spreads.append(float(((vision - mean).norm(dim=-1).max() / mean.norm()).detach()))
    return spreads


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "comma-clip.json"
    vision = {"image_size": 32, "patch_size": 8, "width": 48, "layers": 4, "head_width": 16}
    text = {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 4}
    path.write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(path)
    return ClipBackbone("comma-clip", None, seed=1)


@pytest.fixture(scope="module")
def batch():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 3, 1])


def naive_prompts(method):
    """V₀ = F(T₀); Vₗ₊₁ = W₂ ReLU(W₁ LN(softmax(Vₗ Kᵀ / √d_v) K)) with K = W Tₗ + b."""
    text = [method.ctx, *method.text_prompts]
    vision = [text[0] @ method.projection.weight.T + method.projection.bias]
    for layer, g in enumerate(method.generators):
        keys = text[layer] @ g.key_value.weight.T + g.key_value.bias
        attention = torch.softmax(vision[-1] @ keys.T / keys.shape[1] ** 0.5, dim=-1)
        hidden = F.layer_norm(attention @ keys, keys.shape[1:], g.norm.weight, g.norm.bias)
        hidden = torch.relu(hidden @ g.down.weight.T + g.down.bias)
        vision.append(hidden @ g.up.weight.T + g.up.bias)
    return text, vision


def test_logits_loss_and_gradients_are_the_formula(clip, batch):
    torch.manual_seed(0)
    method = COMMA(clip=clip, classes=PETS, depth=4, n_ctx=2, kd_positions="all", kd_weight=0.7)
    text, vision = naive_prompts(method)
    logits, states = naive_logits(clip, PETS.names, text, vision, batch[0])
    torch.testing.assert_close(method(batch[0]), logits, atol=1e-4, rtol=1e-5)
    with torch.no_grad():
        tokens = clip.tokenize([p[0] for p in PETS.prompts()])
        teacher = clip.model.token_embedding(tokens) + clip.model.positional_embedding
        teacher = clip.model.transformer(teacher, attn_mask=clip.model.attn_mask)
    score = 1 - F.cosine_similarity(states, teacher, dim=-1).mean()
    loss = F.cross_entropy(logits, batch[1]) + 0.7 * score
    torch.testing.assert_close(method.loss(batch), loss, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(method.distance(), score, atol=1e-5, rtol=1e-4)
    parameters = method.trainable_parameters()
    wanted = torch.autograd.grad(loss, parameters)
    got = torch.autograd.grad(method.loss(batch), parameters)
    for a, b in zip(got, wanted, strict=True):
        assert (a - b).norm() <= 1e-4 * b.norm() + 1e-9


def gradients(clip, batch, **options):
    torch.manual_seed(0)
    method = COMMA(clip, PETS, depth=4, **options)
    method.loss(batch).backward()
    return method, {name: p.grad for name, p in method.named_parameters() if not name.startswith("clip.")}


def test_in_graph_every_tensor_has_a_gradient(clip, batch):
    for mode in ("in_graph", "symmetric"):
        _, grads = gradients(clip, batch, mode=mode)
        assert all(grad is not None and grad.norm() > 0 for grad in grads.values()), mode


def test_released_generators_are_never_trained(clip, batch):
    method, grads = gradients(clip, batch, mode="released", kd_positions="valid")
    in_graph, others = gradients(clip, batch, mode="in_graph", kd_positions="valid")
    frozen = {name for name, grad in grads.items() if grad is None}
    assert frozen == {name for name in grads if name.startswith("generators.")}
    assert frozen < set(method.state_dict()), "they are stored: a random but fixed part of the model"
    assert method.kd_positions == "valid"
    # Same numbers forward; the deep text prompts hear of images through the generators only in the graph.
    in_graph.load_state_dict(method.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(method(batch[0]), in_graph(batch[0]))
    assert not torch.allclose(grads["text_prompts.0"], others["text_prompts.0"])
    torch.testing.assert_close(grads["text_prompts.2"], others["text_prompts.2"], atol=1e-6, rtol=1e-3)


def test_modes_have_the_positions_of_their_code(clip):
    assert COMMA(clip, PETS, depth=2, mode="released").kd_positions == "all"
    assert COMMA(clip, PETS, depth=2).kd_positions == "valid"


@pytest.mark.parametrize("positions", ["valid", "eos", "all"])
@pytest.mark.parametrize("layers", [1, 3])
def test_distance_is_zero_where_student_is_teacher(clip, positions, layers):
    method = COMMA(clip, CLASSES, depth=1, n_ctx=2, kd_positions=positions, kd_layers=layers)
    assert abs(float(method.distance().detach())) < 1e-6
    changed = COMMA(clip, CLASSES, depth=2, n_ctx=2, kd_positions=positions, kd_layers=layers)
    assert float(changed.distance().detach()) > 1e-4


@pytest.mark.parametrize("layers", [1, 2])
def test_compared_positions(clip, layers):
    """Each choice of positions, from the states of all of them."""
    torch.manual_seed(0)
    made = {p: COMMA(clip, PETS, depth=3, kd_positions=p, kd_layers=layers) for p in ("valid", "eos", "all")}
    for method in made.values():
        method.load_state_dict(made["all"].state_dict())
    student = (
        made["all"]
        .towers.encode_text(made["all"].layout, made["all"].prompts(), taps=layers, path="full")
        .taps
    )
    tokens = clip.tokenize([p[0] for p in PETS.prompts()])
    x, kept = clip.model.token_embedding(tokens) + clip.model.positional_embedding, []
    for block in clip.model.transformer.resblocks:
        x = block(x, attn_mask=clip.model.attn_mask)
        kept.append(x)
    teacher, own, theirs = torch.stack(kept[-layers:]), made["all"].layout.eot, tokens.argmax(1)
    cosine = F.cosine_similarity(student, teacher, dim=-1)
    valid = torch.arange(32) <= torch.minimum(own, theirs)[:, None]
    rows = torch.arange(4)
    expected = {
        "all": 1 - cosine.mean(),
        "valid": 1 - cosine[:, valid].mean(),
        "eos": 1 - F.cosine_similarity(student[:, rows, own], teacher[:, rows, theirs], dim=-1).mean(),
    }
    for positions, method in made.items():
        torch.testing.assert_close(method.distance(), expected[positions], atol=1e-5, rtol=1e-4)


def test_all_positions_need_the_full_path_and_say_so(clip, batch, caplog, monkeypatch):
    method = COMMA(clip, PETS, depth=2, kd_positions="all")
    assert "all positions" in caplog.text.replace("\n", " ")
    used = []
    for path in ("full", "shared"):
        run = getattr(method.towers.text, path)
        monkeypatch.setattr(
            method.towers.text, path, lambda *a, run=run, path=path: used.append(path) or run(*a)
        )
    method.loss(batch)
    with torch.no_grad():
        method(batch[0])
    assert used == ["full", "shared"], "without the teacher nothing behind EOT is needed"


def test_without_weight_there_is_no_teacher(clip, batch):
    method = COMMA(clip, PETS, depth=2, kd_weight=0)
    torch.testing.assert_close(method.loss(batch), F.cross_entropy(method(batch[0]), batch[1]))
    with pytest.raises(UserError, match="kd_weight"):
        method.distance()


def test_parameter_counts(counting_clip):
    clip = counting_clip
    count = lambda **options: sum(p.numel() for p in COMMA(clip, PETS, **options).trainable_parameters())  # noqa: E731
    assert count() == 5_934_336
    assert count(mode="released", kd_positions="eos") == 403_200
    assert count(mode="released", kd_positions="eos", depth=3) == 397_056
    # Registered in the released code: its own 5,946,624 less 8 · 2 · 768 image prompts that each step overwrites.
    stored = sum(
        v.numel() for k, v in COMMA(clip, PETS, kd_weight=0).state_dict().items() if "teacher" not in k
    )
    assert stored == 5_946_624 - 12_288


def test_tokens_collapse_and_the_remedies(clip):
    spread = {}
    for remedy in ("none", "residual", "learned"):
        torch.manual_seed(0)
        method = COMMA(clip, PETS, depth=4, ctx_init=None, kd_weight=0, collapse_remedy=remedy)
        spread[remedy] = prompt_spread(method.prompts())
    assert max(spread["none"][1:]) < 1e-3, "generated prompts of a layer are all but equal"
    for remedy in ("residual", "learned"):
        assert min(spread[remedy][1:]) > 100 * max(spread["none"][1:])
    torch.manual_seed(0)
    pairs = COMMA(clip, PETS, depth=4, ctx_init=None, kd_weight=0, mode="symmetric")
    assert min(prompt_spread(pairs.prompts())) > 100 * max(spread["none"][1:])


def test_weights_fit_another_class_list(clip, batch):
    method = COMMA(clip, PETS, depth=3)
    other = COMMA(clip, ClassSet(("dog", "very big house"), ("a photo of a {}.",)), depth=3)
    other.load_state_dict(method.state_dict())
    with torch.no_grad():
        assert other(batch[0]).shape == (3, 2)
    assert not any("teacher" in name for name in method.state_dict())


def test_values_are_checked(clip):
    for options, word in (
        ({"mode": "ingraph"}, "in_graph"),
        ({"kd_positions": "eot"}, "eos"),
        ({"kd_layers": 5}, "kd_layers"),
        ({"collapse_remedy": "more"}, "residual"),
        ({"depth": 5}, "depth"),
        ({"kd_template": "a photo"}, "kd_template"),
    ):
        with pytest.raises(UserError, match=word):
            COMMA(clip, PETS, **{"depth": 2, **options})
