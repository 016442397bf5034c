"""CLIP-Adapter: formula, branches, ratios that are fixed, searched or learned."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from mmadapt.data.base import ClassSet
from mmadapt.errors import UserError
from mmadapt.features.encoder import FeatureSet
from mmadapt.methods.clip_adapter import ClipAdapter
from mmadapt.methods.parts.schedules import Cosine

D, C, B = 24, 5, 12
CLASSES = ClassSet(tuple("abcde"))


class StubClip(torch.nn.Module):
    """What a feature-level method needs of a backbone."""

    dim = D

    def __init__(self):
        super().__init__()
        self.logit_scale = torch.nn.Parameter(torch.tensor(3.0), requires_grad=False)


@pytest.fixture
def texts():
    return F.normalize(torch.randn(C, D, generator=torch.Generator().manual_seed(1)), dim=-1)


@pytest.fixture
def images(texts):
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(B) % C
    return 7 * (texts[labels] + 0.5 * torch.randn(B, D, generator=generator)), labels


def build(texts, seed=0, **options):
    torch.manual_seed(seed)
    return ClipAdapter(clip=StubClip(), classes=CLASSES, text_features=texts, **options)


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def layers(method, side):
    return method.adapters[side].down, method.adapters[side].up


def bottleneck(x, down, up, final_relu):
    out = F.linear(F.relu(F.linear(x, down.weight)), up.weight)
    return F.relu(out) if final_relu else out


@pytest.mark.parametrize("final_relu", [True, False])
@pytest.mark.parametrize("branch", ["visual", "text", "both"])
def test_branches_follow_the_formula(texts, images, branch, final_relu):
    method = build(texts, branch=branch, ratio=0.3, text_ratio=0.6, final_relu=final_relu)
    image, text = images[0], texts
    if branch != "text":
        image = 0.3 * bottleneck(image, *layers(method, "image"), final_relu) + 0.7 * image
    if branch != "visual":
        text = 0.6 * bottleneck(text, *layers(method, "text"), final_relu) + 0.4 * text
    expected = torch.tensor(3.0).exp() * unit(image) @ unit(text).T
    torch.testing.assert_close(method(images[0]), expected, atol=1e-5, rtol=1e-5)
    assert sum(p.numel() for p in method.trainable_parameters()) == 2 * D * (D // 4) * (
        1 + (branch == "both")
    )
    method.loss(images).backward()
    assert all(p.grad.abs().sum() > 0 for p in method.trainable_parameters())


def test_published_parameter_counts(texts):
    for width, expected in ((512, 131_072), (1024, 524_288)):
        clip = StubClip()
        clip.dim = width
        method = ClipAdapter(clip=clip, classes=CLASSES, text_features=torch.zeros(C, width))
        assert sum(p.numel() for p in method.trainable_parameters()) == expected


def test_ratio_zero_is_zero_shot(texts, images):
    method = build(texts, branch="both", ratio=0.0)
    zero_shot = method.scale * unit(images[0]) @ texts.T
    torch.testing.assert_close(method(images[0]), zero_shot, atol=1e-5, rtol=1e-5)


def train(method, images, steps=12):
    optimizer = torch.optim.SGD(method.trainable_parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule = Cosine(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        method.loss(images).backward()
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("branch", ["visual", "both"])
def test_grid_equals_separate_runs_and_keeps_the_best_on_val(texts, images, branch):
    """In float64: in float32, rounding grows with every step until the two are apart on some processors."""
    grid, images = [0.25, 0.5, 0.875], (images[0].double(), images[1])
    stacked = build(texts, branch=branch, ratio_grid=grid).double()
    train(stacked, images)
    runs = []
    for ratio in grid:
        runs.append(build(texts, branch=branch, ratio=ratio).double())
        train(runs[-1], images)
    generator = torch.Generator().manual_seed(5)
    val = FeatureSet(torch.randn(1, 200, D, generator=generator, dtype=torch.float64), torch.arange(200) % C)
    for run, logits in zip(runs, stacked.stacked_logits(val.image_features[0]), strict=True):
        torch.testing.assert_close(run(val.image_features[0]), logits, atol=1e-10, rtol=1e-10)
    hits = [int((run(val.image_features[0]).argmax(-1) == val.labels).sum()) for run in runs]
    assert len(set(hits)) > 1, "the grid must not be a tie"
    stacked.search(val)
    best = hits.index(max(hits))
    assert stacked.tuned["ratio"] == pytest.approx(grid[best])
    torch.testing.assert_close(stacked(images[0]), runs[best](images[0]), atol=1e-10, rtol=1e-10)

    fresh = build(texts, seed=9, branch=branch, ratio_grid=grid).double()
    fresh.load_state_dict(stacked.state_dict())
    assert torch.equal(fresh(images[0]), stacked(images[0]))


def test_learned_ratios_start_where_asked_and_move(texts, images):
    method = build(texts, branch="both", ratio=0.2, text_ratio=0.7, learn_ratio=True)
    fixed = build(texts, branch="both", ratio=0.2, text_ratio=0.7)
    torch.testing.assert_close(method(images[0]), fixed(images[0]), atol=1e-5, rtol=1e-5)
    train(method, images)
    method.search(FeatureSet(images[0][None], images[1]))
    assert abs(method.tuned["ratio"] - 0.2) > 1e-3
    assert abs(method.tuned["text_ratio"] - 0.7) > 1e-3


def test_norm_of_the_input_does_not_matter(texts, images):
    """Without biases the bottleneck is homogeneous: raw and unit features give the same logits."""
    method = build(texts)
    torch.testing.assert_close(method(images[0]), method(unit(images[0])), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"branch": "image"}, "visual, text or both"),
        ({"ratio": 1.5}, r"\[0, 1\]"),
        ({"ratio_grid": []}, "empty"),
        ({"ratio_grid": [0.2], "learn_ratio": True}, "exclude"),
        ({"ratio_grid": [0.2], "selection": "best_val"}, "selection=last"),
        ({"ratio": 0.0, "learn_ratio": True}, r"inside \(0, 1\)"),
        ({"reduction": 100}, "feature width"),
    ],
)
def test_wrong_values_are_refused(texts, options, word):
    with pytest.raises(UserError, match=word):
        build(texts, optimizer=partial(torch.optim.SGD, lr=0.1), **options)
