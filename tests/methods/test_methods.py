"""What every method must do, for each YAML found in conf/method."""

from __future__ import annotations

import pytest
import torch
from tests.support.methods import CLASSES, METHODS, build
from tests.support.training import losses_of
from torch.nn import functional as F

from mmadapt.config.schema import register_resolvers
from mmadapt.data.base import ClassSet
from mmadapt.errors import UserError
from mmadapt.features.encoder import FeatureSet
from mmadapt.methods.base import Method, class_text_features
from mmadapt.methods.clip_adapter import ClipAdapter
from mmadapt.methods.linear_probe import LinearProbe
from mmadapt.methods.parts.bottleneck import adapter_features
from mmadapt.methods.tip_adapter import TipAdapter, TipAdapterF
from mmadapt.methods.zero_shot import ZeroShot

register_resolvers()
SHOTS = 4


@pytest.fixture(scope="module")
def shots(small_clip):
    """Three separable groups of raw features, two views each: (2, 12, D)."""
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat(SHOTS)
    centres = torch.randn(3, small_clip.dim, generator=g)
    features = centres[labels] + 0.3 * torch.randn(2, len(labels), small_clip.dim, generator=g)
    return FeatureSet(features, labels)


@pytest.fixture(scope="module")
def val(shots):
    return FeatureSet(shots.image_features[:1] + 0.1, shots.labels)


def adapted(name, clip, shots, val) -> Method:
    method = build(name, clip)
    method.adapt(shots, val)
    return method


def training_batch(method, shots):
    """The shots as the method is trained on them: raw features, or images if it changes the image tower."""
    images = torch.randn(len(shots.labels), 3, 32, 32, generator=torch.Generator().manual_seed(2))
    return images if method.image_level else shots.image_features[0], shots.labels


@pytest.mark.parametrize("name", METHODS)
def test_images_and_their_features_give_the_same_logits(name, small_clip, shots, val):
    method = adapted(name, small_clip, shots, val)
    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    logits = method(images)
    assert logits.shape == (5, len(CLASSES))
    assert logits.isfinite().all()
    if method.image_level:
        features = method.towers.encode_image(images, method.prompts())
    else:
        features = small_clip.encode_image(images)
    torch.testing.assert_close(method(features), logits)


@pytest.mark.parametrize("name", METHODS)
def test_gradients_reach_all_own_parameters_and_nothing_of_clip(name, small_clip, shots, val):
    method = adapted(name, small_clip, shots, val)
    own = method.trainable_parameters()
    assert not any(parameter.requires_grad for parameter in small_clip.parameters())
    if not method.epochs:
        assert own == []
        return
    method.loss(training_batch(method, shots)).backward()
    assert own
    for parameter in own:
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in small_clip.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_falls(name, small_clip, shots, val):
    method = adapted(name, small_clip, shots, val)
    if not method.epochs:
        assert method.epochs == 0
        return
    batch = training_batch(method, shots)
    optimizer = torch.optim.Adam(method.trainable_parameters(), lr=1e-2)
    losses = losses_of(method, batch, optimizer, steps=30)
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.parametrize("name", METHODS)
def test_saved_and_loaded_weights_give_the_same_logits_without_clip_among_them(name, small_clip, shots, val):
    method = adapted(name, small_clip, shots, val)
    for parameter in method.trainable_parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    method.search(val)
    state = method.state_dict()
    assert not [key for key in state if key.startswith("clip.")]
    copy = build(name, small_clip)
    copy.load_state_dict(state)
    torch.testing.assert_close(copy(shots.image_features[0]), method(shots.image_features[0]), rtol=0, atol=0)


@pytest.mark.parametrize("name", METHODS)
def test_clip_stays_frozen_and_in_evaluation_mode(name, small_clip):
    method = build(name, small_clip)
    method.train()
    assert not any(module.training for module in small_clip.modules())


@pytest.mark.parametrize("name", METHODS)
def test_what_holds_something_for_each_class_does_not_work_by_names(name, small_clip, shots, val):
    """Else a protocol with new classes would hand the old classes' numbers to the new ones, without an error."""
    method = adapted(name, small_clip, shots, val)
    each_class = [key for key, p in method.state_dict().items() if len(CLASSES) in p.shape]
    assert not each_class or method.transfer != "names", f"transfer = 'names', but {each_class} are per class"


def test_weights_of_another_method_are_refused(small_clip):
    with pytest.raises(UserError, match="not of ClipAdapter"):
        build("clip_adapter", small_clip).load_state_dict({"something": torch.zeros(1)})


def test_zero_shot_is_the_scaled_cosine(small_clip, shots):
    features = shots.image_features[0]
    cosines = F.normalize(features, dim=-1) @ class_text_features(small_clip, CLASSES).T
    expected = small_clip.logit_scale.exp() * cosines
    torch.testing.assert_close(ZeroShot(small_clip, CLASSES)(features), expected)
    torch.testing.assert_close(ZeroShot(small_clip, CLASSES, logit_scale=100.0)(features), 100 * cosines)


def test_templates_are_normalised_each_then_averaged_then_normalised(small_clip):
    classes = ClassSet(("a_b",), ("a photo of a {}.", "the {}."))
    each = [F.normalize(small_clip.encode_text([p]), dim=-1)[0] for p in ("a photo of a a b.", "the a b.")]
    expected = F.normalize((each[0] + each[1]) / 2, dim=-1)
    torch.testing.assert_close(class_text_features(small_clip, classes)[0], expected)


def test_clip_adapter_is_the_released_formula(small_clip, shots):
    method = ClipAdapter(small_clip, CLASSES, ratio=0.3)
    f = shots.image_features[0]
    adapter = method.adapters["image"]
    hidden = torch.relu(f @ adapter.down.weight.T)
    blended = 0.3 * torch.relu(hidden @ adapter.up.weight.T) + 0.7 * f
    expected = small_clip.logit_scale.exp() * F.normalize(blended, dim=-1) @ method.text_features.T
    torch.testing.assert_close(method(f), expected)
    assert sum(p.numel() for p in method.trainable_parameters()) == 2 * small_clip.dim * (small_clip.dim // 4)
    zero = ClipAdapter(small_clip, CLASSES, ratio=0.0)
    torch.testing.assert_close(zero(f), ZeroShot(small_clip, CLASSES)(f))


def test_adapters_may_be_stacked_along_a_leading_axis(small_clip, shots):
    g = torch.Generator().manual_seed(0)
    width = small_clip.dim
    down, up = torch.randn(4, width // 4, width, generator=g), torch.randn(4, width, width // 4, generator=g)
    f = shots.image_features[0]
    stacked = adapter_features(f, down, up, 0.2)
    for run in range(4):
        torch.testing.assert_close(stacked[run], adapter_features(f, down[run], up[run], 0.2))


def test_tip_adapter_is_the_released_formula(small_clip, shots, val):
    method = TipAdapter(small_clip, CLASSES, alpha=2.0, beta=3.0)
    method.adapt(shots, val)
    f = F.normalize(shots.image_features[1], dim=-1)
    keys = F.normalize(shots.image_features.mean(dim=0), dim=-1)
    one_hot = F.one_hot(shots.labels, 3).float()
    expected = method.scale * f @ method.text_features.T + 2.0 * torch.exp(-3.0 * (1 - f @ keys.T)) @ one_hot
    torch.testing.assert_close(method(shots.image_features[1]), expected)


def test_tip_adapter_f_starts_as_tip_adapter_and_trains_keys_alone(small_clip, shots, val):
    both = TipAdapter(small_clip, CLASSES), TipAdapterF(small_clip, CLASSES)
    for method in both:
        method.adapt(shots, val)
    features = shots.image_features[1]
    assert torch.equal(both[0](features), both[1](features))
    assert [name for name, p in both[1].named_parameters() if p.requires_grad] == ["cache_keys"]
    assert both[1].cache_keys.shape == (3 * SHOTS, small_clip.dim)


@pytest.mark.parametrize("search_alpha", ["grid", "exact"])
def test_the_search_is_stored_and_never_lowers_val(search_alpha, small_clip, shots, val):
    method = TipAdapter(small_clip, CLASSES, alpha=0.1, beta=0.1, search_alpha=search_alpha)
    method.adapt(shots, val)
    before = (method(val.image_features[0]).argmax(1) == val.labels).sum()
    method.search(val)
    after = (method(val.image_features[0]).argmax(1) == val.labels).sum()
    assert after >= before
    assert method.tuned == {
        "alpha": pytest.approx(float(method.alpha)),
        "beta": pytest.approx(float(method.beta)),
    }


def test_linear_probe_separates_what_is_separable(small_clip, shots, val):
    method = LinearProbe(small_clip, CLASSES)
    method.adapt(FeatureSet(shots.image_features[:1], shots.labels), val)
    assert (method(shots.image_features[1]).argmax(1) == shots.labels).all()
    assert method.tuned["C"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 1.5}, "method.ratio=1.5 must lie in"),
        ({"reduction": 0}, "method.reduction=0 must lie between"),
        ({"epochs": -1}, "epochs ≥ 0"),
        ({"selection": "best_test"}, "Use last or best_val"),
        ({"crop_scale": (0.5, 1.5)}, "rising shares of the area"),
    ],
)
def test_values_that_make_no_sense_are_refused(options, message, small_clip):
    with pytest.raises(UserError, match=message):
        ClipAdapter(small_clip, CLASSES, **options)
