"""The embedded world: renderer, hold-out, downstream sets, shipped weights and their pre-training."""

from __future__ import annotations

import json
from functools import partial

import open_clip
import pretrain_tiny as pretrain
import pytest
import torch
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import CLIP
from PIL import Image
from tests.support import FILES
from tiny_captions import SEEN_STYLES, caption, caption_words
from torchvision.transforms.functional import pil_to_tensor

from mmadapt.clip import tiny
from mmadapt.data.shapes import dataset as shapes_worlds
from mmadapt.data.shapes import specs as shapes_specs
from mmadapt.data.shapes.dataset import WORLDS
from mmadapt.data.shapes.render import STYLES, Scene, render
from mmadapt.data.shapes.specs import COMBINATIONS, held_out
from mmadapt.errors import UserError


@pytest.fixture(scope="module")
def shipped():
    config = tiny.tiny_config()
    model = CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"])
    model.load_state_dict(tiny.load_tiny_state(), strict=True)
    return model.eval().requires_grad_(False)


def draw(seed=0, number=24):
    attributes = torch.tensor([(*COMBINATIONS[(i * 37) % 600], 1 + i % 4) for i in range(number)])
    generator = torch.Generator().manual_seed(seed)
    return render(attributes, torch.arange(number) % len(STYLES), generator, Scene())


def test_renderer_is_reproducible_and_private():
    state = torch.get_rng_state()
    images, mask = draw()
    again, _ = draw()
    other, _ = draw(seed=1)
    assert images.shape == (24, 3, 64, 64)
    assert images.dtype == torch.uint8
    assert torch.equal(images, again)
    assert not torch.equal(images, other)
    assert ((mask >= 0) & (mask <= 1)).all()
    assert (mask.flatten(1).sum(1) > 40).all(), "every image shows its object"
    assert torch.equal(torch.get_rng_state(), state)


def test_renderer_ignores_the_number_of_threads():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one, _ = draw()
        torch.set_num_threads(2)
        two, _ = draw()
    finally:
        torch.set_num_threads(before)
    assert torch.equal(one, two)


def test_chunks_are_independent_of_order():
    last = shapes_worlds.render_chunk("shapes", "val", 1)[0]
    chunks = [shapes_worlds.render_chunk("shapes", "val", chunk) for chunk in range(2)]
    assert torch.equal(chunks[1][0], last)
    labels = torch.cat([labels for _, labels in chunks])
    assert torch.equal(labels, shapes_worlds.split_labels("shapes", "val"))


def test_hold_out_is_a_quarter_and_base_and_new_respect_it():
    assert len(held_out()) == 150
    for axis, size in enumerate((12, 10, 5)):
        assert {c[axis] for c in COMBINATIONS if c not in held_out()} == set(range(size))
    spec = shapes_specs.world_spec("shapes")
    half = len(spec.names) // 2
    kinds = [attributes[:3] for attributes in spec.attributes]
    assert len(set(spec.names)) == 2 * half >= 48
    assert not set(kinds[:half]) & held_out()
    assert set(kinds[half:]) <= held_out()


def test_pretraining_never_shows_held_out_combinations_or_new_styles():
    recipe = pretrain.Recipe(chunk=64, pool=2)
    for step in (0, recipe.steps - 1):
        attributes = pretrain.Pool(recipe).batch(step).attributes
        assert not {tuple(row[:3]) for row in attributes.tolist()} & held_out()
        assert {STYLES[row[4]] for row in attributes.tolist()} <= set(SEEN_STYLES)


@pytest.mark.parametrize("world", sorted(shapes_specs.worlds()))
def test_worlds_are_well_formed(world):
    spec = shapes_specs.world_spec(world)
    assert len(spec.names) == len(set(spec.names)) == len(spec.attributes)
    words = set(caption_words())
    assert all(set(name.split()) <= words for name in spec.names), "the text tower knows every class name"
    assert min(spec.per_class) >= 8
    images, labels = shapes_worlds.render_chunk(world, "val", 0)
    assert images.shape == (len(labels), 3, 64, 64)
    assert labels.max() < len(spec.names)


def test_identities_change_with_the_pixels_alone():
    """Each world has a name of its own; a change of pixels beyond rounding asks for another one."""
    assert list(WORLDS) == list(shapes_specs.worlds())
    assert len(set(WORLDS.values())) == len(WORLDS)
    sheet = pil_to_tensor(Image.open(FILES / "worlds.png")).split(64, dim=1)
    for world, stored in zip(WORLDS, sheet, strict=True):
        images = shapes_worlds.render_chunk(world, "test", 0)[0][:2]
        difference = (torch.cat(list(images), dim=2).int() - stored.int()).abs()
        assert (difference > 2).float().mean() < 0.01, world  # processors round edges to either side


def test_unknown_names_are_explained():
    with pytest.raises(UserError, match=r"did you mean 'shapes_sketch'.*Worlds: shapes,"):
        shapes_specs.world_spec("shapes_skech")
    with pytest.raises(UserError, match="Splits: train, val, test"):
        shapes_worlds.split_labels("shapes", "testing")
    with pytest.raises(IndexError, match="none with index 99"):
        shapes_worlds.render_chunk("shapes", "val", 99)


def test_captions_stay_within_the_trained_words():
    import random

    rng, words = random.Random(0), set(caption_words())
    for i in range(500):
        style = STYLES.index(SEEN_STYLES[i % 4])
        text, mentioned = caption(*COMBINATIONS[i % 600], 1 + (i % 5 == 0), style, rng)
        assert set(text.replace(".", " . ").split()) <= words
        assert all(
            m in (-1, v)
            for m, v in zip(mentioned, (*COMBINATIONS[i % 600], 1 + (i % 5 == 0), style), strict=True)
        )


def test_shipped_weights_fit_a_stock_model():
    assert tiny.WEIGHTS.stat().st_size <= 4 * 2**20
    open_clip.add_model_config(tiny.CONFIG)
    model = open_clip.create_model(tiny.NAME)
    state = tiny.load_tiny_state()
    model.load_state_dict(state, strict=True)
    assert all(torch.equal(value, tiny.load_tiny_state()[name]) for name, value in state.items())
    assert json.loads(tiny.tiny_metadata()["held_out"]) == [list(c) for c in sorted(held_out())]


def test_compact_and_full_vocabulary_agree(shipped):
    vocabulary = pretrain.Vocabulary()
    text = "a photo of a red striped star."
    student = pretrain.Student(len(vocabulary.rows)).eval()
    state = shipped.state_dict()
    state["token_embedding.weight"] = state["token_embedding.weight"][vocabulary.rows]
    student.clip.load_state_dict(state)
    tokens = open_clip.SimpleTokenizer(context_length=32)([text])
    with torch.no_grad():
        short = student.encode_text(vocabulary([text]))
        full = shipped.encode_text(tokens, normalize=True)
    torch.testing.assert_close(short, full, atol=1e-5, rtol=1e-5)


def test_zero_shot_accuracy_of_the_shipped_weights(shipped):
    vocabulary = pretrain.Vocabulary()
    student = pretrain.Student(len(vocabulary.rows))
    state = shipped.state_dict()
    state["token_embedding.weight"] = state["token_embedding.weight"][vocabulary.rows]
    student.clip.load_state_dict(state)
    stock = partial(pretrain.normalise, mean=OPENAI_DATASET_MEAN, std=OPENAI_DATASET_STD)
    scores = pretrain.evaluate(student, vocabulary, 300, stock)
    for name, floor in {"joint_seen": 90, "joint_held": 80, "shape_seen": 91, "shape_held": 82}.items():
        assert scores[name] >= floor, scores


@pytest.mark.skipif(
    not hasattr(torch.optim, "Muon"), reason="pre-training needs torch.optim.Muon, PyTorch 2.9"
)
def test_pretraining_resumes_bit_for_bit(tmp_path):
    recipe = pretrain.Recipe(steps=3, batch=8, chunk=16, every=1, pool=2, warmup=1)
    settings = {"evaluate_every": 100, "save_every": 100, "images": 20}
    whole = pretrain.train(recipe, tmp_path / "whole", tmp_path / "whole.safetensors", **settings)
    part = tmp_path / "part"
    pretrain.train(recipe, part, tmp_path / "part.safetensors", stop=2, **settings)
    assert not (tmp_path / "part.safetensors").exists()
    torch.rand(7)  # the global random state must not matter
    resumed = pretrain.train(recipe, part, tmp_path / "part.safetensors", **settings)
    assert resumed.step == whole.step == 3
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    one, two = (tiny.load_tiny_state(tmp_path / f"{name}.safetensors") for name in ("whole", "part"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    with pytest.raises(ValueError, match="another recipe"):
        pretrain.train(pretrain.Recipe(steps=4), part, tmp_path / "part.safetensors")


def test_stock_normalisation_changes_nothing_but_the_input():
    model = pretrain.Student(20).eval()
    images, _ = draw()
    with torch.no_grad():
        before = model.clip.encode_image(pretrain.normalise(images))
        model.clip.load_state_dict(pretrain.with_stock_normalisation(model.clip.state_dict()))
        stock = pretrain.normalise(images, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
        after = model.clip.encode_image(stock)
    torch.testing.assert_close(before, after, atol=1e-4, rtol=1e-4)


def test_the_world_leaves_something_to_learn(shipped):
    def features(split, chunks):
        images, labels = zip(
            *(shapes_worlds.render_chunk("shapes", split, c) for c in range(chunks)), strict=True
        )
        scaled = (torch.cat(images).float() / 255).sub(mean).div(std)
        return shipped.encode_image(scaled, normalize=True), torch.cat(labels)

    mean, std = (torch.tensor(v)[:, None, None] for v in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    names = shapes_specs.world_spec("shapes").names
    tokens = open_clip.SimpleTokenizer(context_length=32)([f"a photo of a {name}." for name in names])
    weights = shipped.encode_text(tokens, normalize=True)
    keys, values = features("train", 3)
    queries, labels = features("val", 2)
    text = shipped.logit_scale.exp() * queries @ weights.T
    cache = torch.exp(-5.5 * (1 - queries @ keys.T)) @ torch.nn.functional.one_hot(values).float()
    zero_shot, adapted = (
        100 * (s.argmax(1) == labels).float().mean().item() for s in (text, text + 3 * cache)
    )
    assert 35 < zero_shot < 75
    assert adapted > zero_shot + 3
