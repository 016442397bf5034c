"""The backbone: frozen, evaluated, honest about what it loads."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from mmadapt.clip import ClipBackbone
from mmadapt.clip.transforms import ImageTransform
from mmadapt.errors import UserError


def test_features_are_open_clips_own(small_clip):
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(small_clip.encode_image(images), small_clip.model.encode_image(images))
    tokens = small_clip.tokenize(["a photo of a cat."])
    assert torch.equal(small_clip.encode_text(["a photo of a cat."]), small_clip.model.encode_text(tokens))
    unit = small_clip.encode_image(images, normalize=True).norm(dim=-1)
    torch.testing.assert_close(unit, torch.ones(3))
    assert small_clip.logit_scale.exp().item() == pytest.approx(1 / 0.07, rel=1e-4)


def test_random_weights_follow_their_seed_and_leave_the_global_generator_alone(small_clip):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    again, other = ClipBackbone("small-clip", None, seed=1), ClipBackbone("small-clip", None, seed=2)
    assert torch.equal(torch.rand(3), expected)
    assert again.weights_hash == small_clip.weights_hash != other.weights_hash


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_computes_low_and_returns_float32(precision, small_clip):
    clip = ClipBackbone("small-clip", None, precision=precision, seed=1)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    features = clip.encode_image(images)
    assert features.dtype == torch.float32
    difference = (features - small_clip.encode_image(images)).norm() / features.norm()
    assert 0 < difference < 0.05


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ViT-B-61", None), r"not an architecture of open_clip \(did you mean"),
        (("ViT-B-16-quickgelu", "openia"), r"neither a file nor a tag .*did you mean 'openai'"),
        (("ViT-B-16", "openai"), r"QuickGELU mismatch.*Use clip.arch=ViT-B-16-quickgelu"),
        (("ViT-B-16-quickgelu", "laion2b_s34b_b88k"), r"QuickGELU mismatch|neither a file nor a tag"),
        (("ViT-B-16", "embedded"), "ships no weights"),
        (("ViT-B-16", "/no/such/file.pt"), "neither a file nor a tag"),
    ],
)
def test_wrong_weights_are_refused_before_anything_is_downloaded(arguments, message):
    with pytest.raises(UserError, match=message):
        ClipBackbone(*arguments)


def test_a_local_checkpoint_is_loaded(tmp_path, small_clip):
    path = tmp_path / "weights.pt"
    torch.save(small_clip.model.state_dict(), path)
    assert ClipBackbone("small-clip", str(path)).weights_hash == small_clip.weights_hash
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match="could not be loaded"):
        ClipBackbone("small-clip", str(path))


def test_a_prompt_that_would_be_cut_is_refused(small_clip):
    with pytest.raises(UserError, match=r"has \d+ tokens"):
        small_clip.tokenize(["a very " * 60 + "long name"])
    assert small_clip.tokenize(["a very " * 60], truncate=True).shape == (1, small_clip.context_length)


def test_the_test_transform_keeps_the_aspect_ratio_and_crops_the_centre(small_clip):
    image = Image.new("RGB", (128, 64), "black")
    image.paste("white", (32, 0, 96, 64))  # exactly the central square
    tensor = small_clip.transform(image)
    assert tensor.shape == (3, 32, 32)
    assert tensor[:, 4:-4, 4:-4].std(dim=(1, 2)).max() < 1e-5


def test_views_follow_their_generator_and_stay_inside_the_scale(small_clip):
    transform: ImageTransform = small_clip.transform
    ramp = Image.linear_gradient("L").resize((96, 96)).convert("RGB")

    def view(seed):
        return transform.view(ramp, torch.Generator().manual_seed(seed), (0.5, 1.0))

    assert view(3).shape == (3, 32, 32)
    assert torch.equal(view(3), view(3))
    assert not torch.equal(view(3), view(4))
    # A crop of at least half the area, with a ratio of at most 4:3, spans at least 61 % of the ramp.
    spread = [float(view(s)[0].max() - view(s)[0].min()) for s in range(30)]
    full = float(transform(ramp)[0].max() - transform(ramp)[0].min())
    assert 0.55 * full < min(spread) < max(spread) <= full + 1e-4
    assert len({round(s, 4) for s in spread}) > 10
