"""MaPLe: the formula spelled out, gradients everywhere, counts, and training from images."""

from __future__ import annotations

import json

import open_clip
import pytest
import torch
from PIL import Image
from tests.support.naive_prompts import CLASSES, naive_logits
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from mmadapt.clip import ClipBackbone
from mmadapt.data.base import ClassSet, LockedTestError
from mmadapt.data.shapes import ShapesData
from mmadapt.errors import UserError
from mmadapt.methods.maple import MaPLe
from mmadapt.training.crops import crop_and_resize, random_views
from mmadapt.training.image_data import ResidentImages


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "maple-clip.json"
    vision = {"image_size": 32, "patch_size": 8, "width": 48, "layers": 3, "head_width": 16}
    text = {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3}
    path.write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(path)
    return ClipBackbone("maple-clip", None, seed=1)


@pytest.fixture(scope="module")
def batch():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 3, 1])


def test_logits_and_gradients_are_the_formula(clip, batch):
    method = MaPLe(clip=clip, classes=CLASSES, depth=3, n_ctx=2)
    text = [method.ctx, *method.text_prompts]
    vision = [F.linear(t, f.weight, f.bias) for t, f in zip(text, method.projections, strict=True)]
    logits, _ = naive_logits(clip, CLASSES.names, text, vision, batch[0])
    torch.testing.assert_close(method(batch[0]), logits, atol=1e-4, rtol=1e-5)
    parameters = method.trainable_parameters()
    wanted = torch.autograd.grad(F.cross_entropy(logits, batch[1]), parameters)
    got = torch.autograd.grad(method.loss(batch), parameters)
    for a, b in zip(got, wanted, strict=True):
        assert b.norm() > 0
        assert (a - b).norm() < 1e-4 * b.norm()


def test_layer_zero_starts_as_the_handwritten_prompt(clip):
    method = MaPLe(clip, CLASSES, depth=1)
    prompts = [f"a photo of a {name.replace('_', ' ')}." for name in CLASSES.names]
    torch.testing.assert_close(
        method.class_features(), clip.encode_text(prompts, normalize=True), atol=1e-6, rtol=1e-5
    )


def test_long_contexts_start_at_random(clip):
    method = MaPLe(clip, CLASSES, depth=1, n_ctx=5)
    assert (method.layout.slots >= 0).sum(1).tolist() == [5] * 4
    assert method.ctx.std() < 0.04


def test_parameter_counts(counting_clip):
    clip = counting_clip
    for depth, count in ((9, 3_555_072), (3, 1_185_024)):
        method = MaPLe(clip, CLASSES, depth=depth)
        assert sum(p.numel() for p in method.trainable_parameters()) == count
        assert sum(value.numel() for value in method.state_dict().values()) == count
    first, second = method.projections[1:3]
    assert torch.equal(first.weight, second.weight)
    assert first.weight is not second.weight


def test_weights_fit_another_class_list(clip, batch):
    method, other = MaPLe(clip, CLASSES, depth=2), MaPLe(clip, ClassSet(("dog", "big house")), depth=2)
    other.load_state_dict(method.state_dict())
    with torch.no_grad():
        assert other(batch[0]).shape == (3, 2)


def test_depth_and_towers_are_checked(clip, tmp_path):
    for depth in (0, 4):
        with pytest.raises(UserError, match=r"depth=.*1 to 3"):
            MaPLe(clip, CLASSES, depth=depth)
    vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}
    text = {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    (tmp_path / "maple-rn.json").write_text(
        json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text})
    )
    open_clip.add_model_config(tmp_path / "maple-rn.json")
    with pytest.raises(UserError, match="ModifiedResNet"):
        MaPLe(ClipBackbone("maple-rn", None), CLASSES, depth=1)


# --- Images in memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize("interpolation", [InterpolationMode.BICUBIC, InterpolationMode.BILINEAR])
def test_batched_crops_are_torchvisions(interpolation):
    images = (torch.rand(3, 3, 40, 56, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    boxes = [(0, 0, 40, 56), (3, 7, 11, 9), (5, 0, 35, 50)]
    views = crop_and_resize(images, boxes, (16, 16), interpolation)
    for view, image, box in zip(views, images, boxes, strict=True):
        wanted = TF.resized_crop(image.float(), *box, [16, 16], interpolation, antialias=True).clamp(0, 255)
        torch.testing.assert_close(view, wanted, atol=2e-2, rtol=1e-4)


def test_views_depend_on_the_generator_alone(clip):
    images = [torch.randint(0, 256, (3, h, w), dtype=torch.uint8) for h, w in ((40, 30), (25, 60))]
    draw = lambda seed: random_views(  # noqa: E731
        images, clip.transform, (0.08, 1.0), torch.Generator().manual_seed(seed), torch.device("cpu")
    )
    assert draw(0).shape == (2, 3, 32, 32)
    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))


def test_resident_images(clip):
    data = ShapesData(world="shapes_form", name="shapes_form", shots=2, split_seed=1)
    data.setup()
    make = lambda: ResidentImages(  # noqa: E731
        data, clip.transform, (0.5, 1.0), batch_size=5, seed=1, validate=True, device=torch.device("cpu")
    )
    resident = make()
    resident.setup()
    resident.whole_epochs = True
    loader = resident.train_dataloader()
    epochs = [[labels for (_, labels), _ in epoch] for _ in range(2) for epoch in loader]
    assert len(epochs[0]) == loader.steps_per_epoch
    assert torch.cat(epochs[0]).bincount().tolist() == [2] * len(data.classes)
    assert not torch.equal(torch.cat(epochs[0]), torch.cat(epochs[1]))
    again = make()
    again.setup()
    again.whole_epochs = True
    first, second = (next(batches)[0][0] for r in (resident, again) for batches in r.train_dataloader())
    assert torch.equal(first, second)
    assert max(image.shape[-1] for image, _ in resident._train) <= 48, "shrunk to 1.5 times the tower's input"
    views, labels = next(iter(resident.val_dataloader()))
    image = data.val.source.load(min(data.val.indices))
    torch.testing.assert_close(views[0], clip.transform(image), atol=1e-6, rtol=1e-6)
    with pytest.raises(LockedTestError):
        resident.test_dataloader()
    data.setup("test")
    views, labels = next(iter(resident.test_dataloader()))
    assert torch.equal(views[0], clip.transform(data.test.source.load(min(data.test.indices))))
    assert labels.shape == (100,)


def test_bad_images_are_left_out_or_named(clip, tmp_path):
    from mmadapt.data.images import BadImageError, ImageFiles, ImageSet

    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    data = ShapesData(world="shapes_form", name="x", shots=1, split_seed=1, on_bad_image="skip")
    data.setup()
    data.train = ImageSet.of(ImageFiles(tmp_path, ("a.png", "b.png")), [0, 1])
    options = {"batch_size": 4, "seed": 1, "validate": False, "device": torch.device("cpu")}
    resident = ResidentImages(data, clip.transform, (0.5, 1.0), **options)
    resident.setup()
    assert resident.skipped == {"train": 1}
    assert len(resident._train) == 1
    data.on_bad_image = "error"
    with pytest.raises(BadImageError, match=r"b\.png"):
        ResidentImages(data, clip.transform, (0.5, 1.0), **options).setup()
