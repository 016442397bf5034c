"""XMAdapter: formulas, Tip-Adapter-F as its special case, weights, search, CoOp as the source of texts."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mmadapt.data.base import ClassSet
from mmadapt.errors import UserError
from mmadapt.features.encoder import FeatureSet
from mmadapt.methods.parts.xm_evidence import Evidence
from mmadapt.methods.tip_adapter import TipAdapterF
from mmadapt.methods.xmadapter import XMAdapter

D, E, C, K, B = 24, 6, 5, 4, 9
CLASSES = ClassSet(tuple("abcde"))


class StubClip(torch.nn.Module):
    """What a feature-level method needs of a backbone."""

    dim = D

    def __init__(self):
        super().__init__()
        self.logit_scale = torch.nn.Parameter(torch.tensor(3.0), requires_grad=False)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


TEXTS = F.normalize(random(C, D, seed=1), dim=-1)


def shots(count, views, seed):
    labels = torch.arange(count * C) % C
    return FeatureSet(6 * (TEXTS[labels] + 0.3 * random(views, count * C, D, seed=seed)), labels)


SUPPORT, VAL = shots(K, 3, seed=2), shots(8, 1, seed=3)


def build(kind=XMAdapter, seed=0, adapt=True, **options):
    torch.manual_seed(seed)
    method = kind(clip=StubClip(), classes=CLASSES, text_features=TEXTS, **options)
    if adapt:
        method.adapt(SUPPORT, VAL)
    return method


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def affinities(method, features):
    """Both affinity matrices (B, NK) with the text cache laid out item by item, as the paper has it."""
    f, labels = unit(features), method.cache_labels
    image = torch.exp(-method.beta * (1 - f @ method.cache_keys.T))
    items = F.normalize(method.text_cache.meta_net(TEXTS), dim=-1)[labels]
    text = torch.exp(
        -method.text_cache.beta * (1 - F.normalize(method.text_cache.img2txt(f), dim=-1) @ items.T)
    )
    return image, text, F.one_hot(labels, C).float()


@pytest.mark.parametrize("fusion", ["learned", "fixed", "confidence", "image", "text"])
@pytest.mark.parametrize("projection", ["linear", "mlp"])
def test_logits_follow_the_formula(fusion, projection):
    method = build(fusion=fusion, gamma=0.3, alpha=2.0, beta=1.5, text_beta=4.0, projection=projection)
    with torch.no_grad():
        for parameter in (*method.text_cache.img2txt.parameters(), *method.text_cache.meta_net.parameters()):
            parameter += 0.1 * torch.randn_like(parameter)
    features = 5 * random(B, D, seed=4)
    image, text, values = affinities(method, features)
    gamma = {"image": 1.0, "text": 0.0}.get(fusion, 0.3)
    if fusion == "confidence":
        one, other = (a @ values for a in (image, text))
        one, other = one.softmax(-1).max(-1, True).values, other.softmax(-1).max(-1, True).values
        gamma = one / (one + other)
    expected = method.scale * unit(features) @ TEXTS.T + 2.0 * (gamma * image + (1 - gamma) * text) @ values
    torch.testing.assert_close(method(features), expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("options", [{"fusion": "image"}, {"fusion": "fixed", "gamma": 1.0}])
def test_the_image_cache_alone_is_tip_adapter_f_to_the_last_bit(options):
    ours = build(hard_weight="none", alpha=1.17, beta=1.0, **options)
    tip = build(TipAdapterF, seed=7, alpha=1.17, beta=1.0)
    optimizers = [torch.optim.AdamW(m.trainable_parameters(), lr=1e-2, eps=1e-4) for m in (ours, tip)]
    for step in range(6):
        batch = (SUPPORT.image_features[step % 3], SUPPORT.labels)
        assert torch.equal(ours(batch[0]), tip(batch[0]))
        for method, optimizer in zip((ours, tip), optimizers, strict=True):
            optimizer.zero_grad()
            method.loss(batch).backward()
            optimizer.step()
        assert torch.equal(ours.cache_keys, tip.cache_keys)
    assert not torch.equal(ours.cache_keys, build(TipAdapterF).cache_keys), "the keys were trained"
    ours.search(VAL)
    tip.search(VAL)
    assert {key: ours.tuned[key] for key in tip.tuned} == tip.tuned
    assert torch.equal(ours(VAL.image_features[0]), tip(VAL.image_features[0]))


def test_both_maps_start_as_the_same_orthonormal_rows():
    method = build(low_dim=E)
    weight = method.text_cache.img2txt.weight
    assert torch.equal(weight, method.text_cache.meta_net.weight)
    torch.testing.assert_close(weight @ weight.T, torch.eye(E), atol=1e-6, rtol=0)
    features = unit(random(B, D))
    # E ≥ C: the subspace holds every class text, so projected texts keep their products with images.
    torch.testing.assert_close((features @ weight.T) @ (TEXTS @ weight.T).T, features @ TEXTS.T)


@pytest.mark.parametrize("hard_weight", ["class", "all", "focal"])
def test_hard_weights(hard_weight):
    method = build(hard_weight=hard_weight, alpha=2.0, beta=1.5, text_beta=4.0)
    features, labels = 5 * random(B, D, seed=4), torch.arange(B) % C
    image, text, _ = affinities(method, features)
    own = method.cache_labels == labels[:, None]
    between = ((image * own).sum(-1) / own.sum(-1) - (text * own).sum(-1) / own.sum(-1)).abs()
    if hard_weight == "all":
        between = (image - text).abs().mean(-1)
    each = F.cross_entropy(method(features), labels, reduction="none")
    if hard_weight == "focal":
        between = between * (1 - torch.exp(-each))
        weight = between / between.mean()
    else:
        weight = (1 + between / between.mean()) / 2
    torch.testing.assert_close(weight.mean(), torch.tensor(1.0))
    assert weight.std() > 0.01
    torch.testing.assert_close(method.loss((features, labels)), (weight.detach() * each).mean())


def test_parameters_and_gradients():
    method = build(low_dim=E)
    assert sum(p.numel() for p in method.trainable_parameters()) == K * C * D + 2 * D * E + 1
    method.loss((SUPPORT.image_features[0], SUPPORT.labels)).backward()
    assert all(p.grad.abs().sum() > 0 for p in method.trainable_parameters())
    assert sum(p.numel() for p in build(fusion="image").trainable_parameters()) == K * C * D
    assert sum(p.numel() for p in build(fusion="text", low_dim=E).trainable_parameters()) == 2 * D * E
    assert not build(training_free=True).trainable_parameters()


@pytest.mark.parametrize("fusion", ["learned", "confidence", "text"])
def test_search_never_loses_on_val_and_survives_saving(fusion):
    method = build(fusion=fusion, search_step=(20, 10))
    noisy = FeatureSet(VAL.image_features + 8 * random(1, 8 * C, D, seed=6), VAL.labels)

    def correct(m):
        return int((m(noisy.image_features[0]).argmax(-1) == noisy.labels).sum())

    on_grid = []
    for alpha in (0.1, 0.79, 2.71):
        for beta in (0.1, 0.79, 3.55):
            other = build(fusion=fusion, alpha=alpha, beta=beta, text_beta=1.0)
            on_grid.append(correct(other))
    method.search(noisy)
    assert correct(method) >= max(on_grid)
    assert set(method.tuned) == {"alpha", "beta", "text_beta"} | ({"gamma"} if fusion == "learned" else set())
    fresh = build(fusion=fusion, adapt=False, seed=5)
    fresh.load_state_dict(method.state_dict())
    assert torch.equal(fresh(noisy.image_features[0]), method(noisy.image_features[0]))


def test_gamma_is_found_when_one_cache_is_useless():
    method, labels = build(), torch.arange(40) % C
    text = torch.full((40, C), 0.9).scatter(1, labels[:, None], 0.901)
    noise = 3 * torch.rand(40, K * C, generator=torch.Generator().manual_seed(8))
    method.evidence = lambda features: Evidence(torch.zeros(40, C), noise, text, method.cache_labels)
    method.search(FeatureSet(torch.zeros(1, 40, D), labels))
    assert method.tuned["gamma"] == 0.0
    assert torch.sigmoid(method.text_cache.gamma_logit) == 0.0


def test_coop_needs_its_run(tmp_path):
    with pytest.raises(UserError, match="outside a run"):
        build(text_source="coop")
    with pytest.raises(UserError, match="method=coop"):
        build(text_source="coop", coop_run=tmp_path)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"fusion": "learn"}, "learned"),
        ({"hard_weight": "x"}, "focal or none"),
        ({"gamma": 1.0}, "fusion=image or text"),
        ({"low_dim": 25}, "feature width"),
        ({"text_source": "x"}, "template or coop"),
    ],
)
def test_wrong_values_are_refused(options, word):
    with pytest.raises(UserError, match=word):
        build(**options)
