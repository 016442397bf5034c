"""The draw of shots, base and new classes, and the deterministic split."""

import hashlib
import json
import random
from pathlib import Path

import pytest
import torch
from tests.support import FILES

from mmadapt.data import base as data_base
from mmadapt.data.base import ClassSet, FewShotData
from mmadapt.data.images import ImageFiles, ImageSet
from mmadapt.data.splits import Splits, draw, split_off, subset_classes
from mmadapt.errors import UserError

PARITY = json.loads((FILES / "fewshot_parity.json").read_text())
PARITY.pop("_about")
CASES = [(name, key) for name, entry in PARITY.items() for key in entry["fingerprints"]]


def rows(sizes, order=None):
    """A split of contiguous classes; `order` gives the label of each block."""
    labels = [order[block] if order else block for block, size in enumerate(sizes) for _ in range(size)]
    source = ImageFiles(Path("/nowhere"), tuple(f"{i:06d}.jpg" for i in range(len(labels))))
    return ImageSet.of(source, labels)


def splits_of(train, val=None, test=None):
    names = tuple(f"class_{i}" for i in range(max(train.labels.tolist()) + 1))
    return Splits(names, train, val or train, test or train)


class Data(FewShotData):
    """A data set of given sizes."""

    def __init__(self, train, test=None, **options):
        super().__init__(**{"name": "sizes", "shots": 2, "split_seed": 1} | options)
        self.all = splits_of(train, test=test)

    def read_splits(self):
        return self.all


def test_all_parity_cases_are_there():
    assert len(CASES) == 60


@pytest.mark.parametrize(("name", "key"), CASES)
def test_draw_is_coops(name, key):
    entry = PARITY[name]
    order = entry.get("label_order_first_appearance")
    train, val = rows(entry["train_class_sizes"], order), rows(entry["val_class_sizes"], order)
    shots, seed = map(int, key.split("-"))
    drawn = draw(splits_of(train, val), shots, min(shots, 4), seed)
    for positions, expected in (
        (drawn.train, entry["fingerprints"][key]["train"]),
        (drawn.val, entry["fingerprints"][key]["val"]),
    ):
        assert hashlib.sha256(json.dumps(list(positions)).encode()).hexdigest()[:32] == expected


def test_draw_ignores_and_leaves_the_global_generator():
    splits = splits_of(rows([30, 20, 10]))
    random.seed(5)
    state = random.getstate()
    before = draw(splits, 4, 4, 1)
    assert random.getstate() == state
    random.random()
    assert draw(splits, 4, 4, 1) == before
    random.seed(99)
    assert draw(splits, 4, 4, 1) == before
    assert draw(splits, 4, 4, 2) != before


def test_draw_hash_follows_images_and_labels():
    base = draw(splits_of(rows([5, 5])), 5, 5, 1)
    moved = draw(splits_of(rows([5, 5], order=[1, 0])), 5, 5, 1)
    assert base.train == moved.train
    assert base.sha256 != moved.sha256
    renamed = ImageSet.of(ImageFiles(Path("/"), tuple(f"{i}.png" for i in range(10))), [0] * 5 + [1] * 5)
    assert draw(splits_of(renamed), 5, 5, 1).sha256 != base.sha256


def test_short_class_gives_all_its_images(caplog):
    data = Data(rows([10, 3, 10]), shots=4)
    data.setup()
    assert torch.bincount(data.train.labels).tolist() == [4, 3, 4]
    assert data.describe()["short_classes"] == {"class_1": 3}
    assert "1 of 3 classes have fewer than 4 training images" in caplog.text


@pytest.mark.parametrize(("classes", "base"), [(4, 2), (5, 3), (2, 1)])
def test_base_is_the_larger_half(classes, base):
    assert subset_classes(classes, "base") == range(base)
    assert subset_classes(classes, "new") == range(base, classes)
    assert subset_classes(classes, "all") == range(classes)


def test_unknown_subset_suggests():
    with pytest.raises(UserError, match=r"data.subset='bse' is unknown \(did you mean 'base'\?\)"):
        subset_classes(4, "bse")


def test_halves_are_parts_of_the_whole_draw_and_count_from_zero():
    sizes = [9, 8, 7, 6, 5]
    parts = {subset: Data(rows(sizes), subset=subset) for subset in ("all", "base", "new")}
    for data in parts.values():
        data.setup()
        data.setup("test")
    for kind in ("train", "val", "test"):
        whole, base, new = (getattr(parts[subset], kind) for subset in ("all", "base", "new"))
        assert base.indices + new.indices == whole.indices
        assert base.labels.unique().tolist() == [0, 1, 2]
        assert new.labels.unique().tolist() == [0, 1]
        assert torch.equal(torch.cat([base.labels, new.labels + 3]), whole.labels)
    assert parts["new"].classes.names == ("class_3", "class_4")


def test_val_shots():
    for shots, val_shots, expected in ((2, None, 2), (8, None, 4), (2, 7, 7)):
        data = Data(rows([9, 9]), shots=shots, val_shots=val_shots)
        data.setup()
        assert len(data.val) == 2 * expected


def test_test_images_are_locked():
    data = Data(rows([3, 3]))
    data.setup()
    with pytest.raises(data_base.LockedTestError):
        _ = data.test
    data.setup("test")
    assert len(data.test) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shots": 0}, "shots=0"),
        ({"val_shots": 0}, "data.val_shots=0"),
        ({"on_bad_image": "ignore"}, "on_bad_image='ignore'"),
        ({"templates": []}, "templates is empty"),
        ({"templates": ["a photo."]}, "'a photo.' must hold {} once"),
        ({"templates": ["{} or {}."]}, "must hold {} once"),
        ({"templates": ["a {name}."]}, "must hold {} once"),
        ({"templates": [3]}, "template 3 must hold"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UserError) as caught:
        Data(rows([3, 3]), **options)
    assert message in str(caught.value)


def test_one_template_may_be_a_string():
    assert Data(rows([3, 3]), templates="a {}.").templates == ("a {}.",)


def test_braces_are_harmless():
    classes = ClassSet(("a_{b}", "{}"), ("{x} of a {} {0", "a {}"))
    assert classes.prompts() == [["{x} of a a {b} {0", "a a {b}"], ["{x} of a {} {0", "a {}"]]


def keys(count, prefix="cat/"):
    return [f"{prefix}{i:04d}.png" for i in range(count)]


@pytest.mark.parametrize("count", [3, 4, 5, 10, 101])
@pytest.mark.parametrize("shares", [(0.3, 0.2), (0.01, 0.01), (0.5, 0.49), (0.01, 0.9), (0.9, 0.01)])
def test_every_class_of_three_has_all_splits(count, shares):
    parts = split_off(keys(count), *shares)
    assert {"train", "val", "test"} == set(parts)


@pytest.mark.parametrize(
    ("count", "shares", "expected"),
    [
        (1, (0.3, 0.2), ["train"]),
        (2, (0.3, 0.2), ["test", "train"]),
        (2, (0, 0.2), ["train", "val"]),
        (5, (0, 0), ["train"] * 5),
        (10, (0.3, 0.2), ["test"] * 3 + ["train"] * 5 + ["val"] * 2),
        (10, (0, 0.2), ["train"] * 8 + ["val"] * 2),
    ],
)
def test_split_sizes(count, shares, expected):
    assert sorted(split_off(keys(count), *shares)) == expected


def test_split_is_independent_of_order():
    names = keys(40)
    shuffled = random.Random(3).sample(names, 40)
    first = dict(zip(names, split_off(names, 0.3, 0.2), strict=True))
    assert dict(zip(shuffled, split_off(shuffled, 0.3, 0.2), strict=True)) == first
    assert list(first.values()) != sorted(first.values())


def test_split_is_pinned():
    """The split of a user's images must never change between versions or machines."""
    parts = split_off([*keys(12), "ca\u00f1\u00f3n/\udcff.png"], 0.3, 0.2)
    letters = "".join({"train": ".", "val": "v", "test": "t"}[part] for part in parts)
    assert letters == "t...ttt.v.v.v"


def test_one_image_more_moves_few():
    before = split_off(keys(100), 0.3, 0.2)
    after = split_off(keys(101), 0.3, 0.2)
    assert sum(a != b for a, b in zip(before, after, strict=False)) <= 2
