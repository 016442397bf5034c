"""`data=folder`: trees, CSVs, class names, templates, and what a user gets wrong."""

import json
import os
import shutil
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mmadapt.config.build import check_keys
from mmadapt.config.paths import CONF_DIR
from mmadapt.data.folder import FolderData
from mmadapt.errors import DataNotFoundError, UserError


def data(root, **options):
    return FolderData(**{"name": "mine", "root": str(root), "shots": 2, "split_seed": 1} | options)


def read(root, **options):
    return data(root, **options).read_splits()


def sizes(splits):
    """Images per class of train, val and test."""
    return [
        [Counter(part.labels.tolist())[i] for i in range(len(splits.class_names))]
        for part in (splits.train, splits.val, splits.test)
    ]


def names(splits):
    return {kind: set(getattr(splits, kind).names()) for kind in ("train", "val", "test")}


def error(root, kind=UserError, **options):
    with pytest.raises(kind) as caught:
        read(root, **options)
    return str(caught.value)


@pytest.fixture
def pets(tmp_path, write_tree):
    """Ten cats and ten dogs."""
    return write_tree(tmp_path / "pets", {"cat": 10, "dog": 10})


# --- trees -----------------------------------------------------------------------------------------------


def test_plain_tree_is_split_by_share(pets):
    splits = read(pets)
    assert splits.class_names == ("cat", "dog")
    assert sizes(splits) == [[5, 5], [2, 2], [3, 3]]
    parts = names(splits)
    assert len(parts["train"] | parts["val"] | parts["test"]) == 20
    assert "cat/000.png" in parts["train"] | parts["val"] | parts["test"]
    assert sizes(read(pets, val_share=0.1, test_share=0.6)) == [[3, 3], [1, 1], [6, 6]]


def test_split_is_independent_of_all_but_the_class(pets, tmp_path, write_tree, monkeypatch):
    before = names(read(pets))
    assert names(read(pets, split_seed=7, shots=5)) == before
    shutil.copytree(pets, tmp_path / "elsewhere")
    assert names(read(tmp_path / "elsewhere")) == before
    write_tree(pets, {"ant": 4, "zebra": 7})
    after = names(read(pets))
    for kind, paths in before.items():
        assert {path for path in after[kind] if path.startswith(("cat/", "dog/"))} == paths
    first = read(pets).train.names()
    scandir = os.scandir

    class Reversed:
        def __init__(self, folder):
            self.entries = list(scandir(folder))[::-1]

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr("mmadapt.data.folder.listing.os.scandir", Reversed)
    assert read(pets).train.names() == first


def test_classes_are_split_differently(pets):
    held_out = {path.split("/")[1] for path in names(read(pets))["test"] if path.startswith("cat/")}
    assert held_out != {path.split("/")[1] for path in names(read(pets))["test"] if path.startswith("dog/")}


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("train", "val", "test"), ("training", "valid", "testing"), ("Train", "validation", "TEST")],
)
def test_split_folders(tmp_path, write_tree, train, val, test):
    counts = {"cat": {train: 4, val: 1, test: 2}, "dog": {train: 3, val: 2, test: 1}}
    root = write_tree(tmp_path, {f"{s}/{c}": n for c, parts in counts.items() for s, n in parts.items()})
    splits = read(root)
    assert sizes(splits) == [[4, 3], [1, 2], [2, 1]]
    assert splits.test.names()[0] == f"{test}/cat/000.png"


def test_missing_split_comes_from_train_alone(tmp_path, write_tree):
    root = write_tree(tmp_path, {"train/cat": 10, "train/dog": 10, "test/cat": 4, "test/dog": 3})
    splits = read(root)
    assert sizes(splits) == [[8, 8], [2, 2], [4, 3]]
    assert all(path.startswith("train/") for path in splits.val.names())
    shutil.move(root / "test", root / "val")
    splits = read(root)
    assert sizes(splits) == [[7, 7], [4, 3], [3, 3]]
    assert all(path.startswith("train/") for path in splits.test.names())


def test_few_images(tmp_path, write_tree, caplog):
    root = write_tree(tmp_path, {"one": 1, "three": 3, "two": 2})
    assert sizes(read(root)) == [[1, 1, 1], [0, 1, 0], [0, 1, 1]]
    assert "1 of 3 classes" in caplog.text
    assert "no test images: one" in caplog.text
    assert "no val images: one, two" in caplog.text


def test_no_val_image_at_all_is_an_error(tmp_path, write_tree):
    assert "have no val images: a, b" in error(write_tree(tmp_path, {"a": 2, "b": 2}))


def test_numbers_are_ordered_as_numbers(tmp_path, write_tree):
    assert read(write_tree(tmp_path, dict.fromkeys(["10", "9", "2"], 3))).class_names == ("2", "9", "10")


def test_suffixes_nesting_and_clutter(pets, write_image):
    write_image(pets / "cat" / "deep" / "down" / "EXTRA.JPG")
    for junk in (".hidden.png", "Thumbs.db", "notes.txt", "__MACOSX/._a.png", "@eaDir/t.png", ".git/x.png"):
        write_image((pets / "cat" / junk).with_suffix(".png")).rename(pets / "cat" / junk)
    write_image(pets / "__MACOSX" / "a.png")
    write_image(pets / ".cache" / "a.png")
    paths = set().union(*names(read(pets)).values())
    assert len(paths) == 21
    assert "cat/deep/down/EXTRA.JPG" in paths


def test_links_are_followed_and_circles_end(pets, tmp_path, write_tree):
    outside = write_tree(tmp_path / "outside", {"birds": 5})
    (pets / "bird").symlink_to(outside / "birds")
    (pets / "cat" / "again").symlink_to(pets / "cat")
    (pets / "cat" / "all").symlink_to(pets)
    (pets / "dog" / "self").symlink_to(pets / "dog" / "self")
    (outside / "birds" / "circle").symlink_to(pets / "bird")
    splits = read(pets)
    assert splits.class_names == ("bird", "cat", "dog")
    assert [sum(column) for column in zip(*sizes(splits), strict=True)] == [5, 10, 10]


def test_unicode_form_of_names_does_not_matter(tmp_path, write_tree):
    composed, split = (unicodedata.normalize(form, "canapé") for form in ("NFC", "NFD"))
    assert composed != split
    counts = {f"train/{composed}": 9, f"test/{split}": 2, "train/dog": 9, "test/dog": 2}
    root = write_tree(tmp_path / "a", counts)
    if len(list((root / "train").iterdir())) != 2:
        pytest.skip("this file system normalises names")
    splits = read(root)
    assert splits.class_names == (composed, "dog")
    assert sizes(splits)[2] == [2, 2]
    first = write_tree(tmp_path / "b", {composed: 9, "dog": 9})
    second = write_tree(tmp_path / "c", {split: 9, "dog": 9})
    held_out = [{Path(p).name for p in names(read(r))["test"] if "dog" not in p} for r in (first, second)]
    assert held_out[0] == held_out[1]


def test_class_may_be_called_like_a_split(tmp_path, write_tree):
    root = write_tree(tmp_path, {"train": 4, "bus": 4, "test": 4})
    assert read(root).class_names == ("bus", "test", "train")


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"train/a": 3, "train/b": 3, "bus": 3}, "also other folders with images: bus"),
        ({"test/a": 3, "test/b": 3}, "no train folder"),
        ({"train/a": 3, "training/a": 3}, "several folders for train: train, training"),
        ({"train": 3, "test": 3}, "no class folders in them"),
        ({"train/a": 3, "train/b": 3, "test": 3}, "also other folders with images: test"),
        ({"train/a": 3, "train/b": 3, "test/a": 3, "test/c": 3, "val/a": 1}, "1 of 3 classes"),
        ({"a": 3}, "only the class 'a'"),
        ({"a": 3, "b": 3, "empty": 0, "void": 0}, "2 class folders"),
        ({"a": 3, "b": 3, "empty": 0, "void": 0}, "empty, void"),
        ({"a": 0}, "No images in"),
        ({}, "one sub-folder per class"),
        ({"": 3}, "Images directly in the folder have no class"),
    ],
)
def test_wrong_trees(tmp_path, write_tree, tree, message):
    text = error(write_tree(tmp_path, tree))
    assert message in text
    assert str(tmp_path) in text


def test_no_images_says_what_was_looked_for_and_found(tmp_path):
    for i in range(3):
        (tmp_path / "cat").mkdir(exist_ok=True)
        (tmp_path / "cat" / f"{i}.HEIC").touch()
    text = error(tmp_path)
    assert ".jpg, " in text
    assert "found instead: 3 .heic" in text


def test_annotations_and_stray_images_beside_split_folders(tmp_path, write_tree, write_image, caplog):
    root = write_tree(tmp_path, {"train/a": 5, "train/b": 5, "notes": 0})
    (root / "notes" / "a.xml").touch()
    write_image(root / "train" / "preview.png")
    assert read(root).class_names == ("a", "b")
    assert "1 images directly in" in caplog.text
    assert "preview.png" in caplog.text


def test_missing_root_suggests(pets):
    text = error(pets.parent / "petz", DataNotFoundError)
    assert f"Dataset 'mine' not found: no folder or CSV {pets.parent / 'petz'}" in text
    assert "did you mean 'pets'?" in text
    assert "data.root=" in text


def test_archive_as_root(tmp_path):
    (tmp_path / "images.zip").touch()
    assert "neither a folder nor a .csv" in error(tmp_path / "images.zip")


@pytest.mark.parametrize("shares", [(0, 0.3), (0.2, 0), (0.5, 0.5), (-0.1, 0.3), (0.2, float("nan"))])
def test_shares_must_leave_images_everywhere(pets, shares):
    with pytest.raises(UserError, match="must be above 0"):
        data(pets, val_share=shares[0], test_share=shares[1])


# --- CSV -------------------------------------------------------------------------------------------------


@pytest.fixture
def table(pets, tmp_path):
    """Write a CSV beside the pets."""

    def write(text, name="pets.csv", encoding="utf-8"):
        (tmp_path / name).write_text(text, encoding=encoding)
        return tmp_path / name

    return write


def pet_rows(pets, absolute=False):
    base = f"{pets}/" if absolute else "pets/"
    return [f"{base}{kind}/{i:03d}.png,{kind}" for kind in ("dog", "cat") for i in range(10)]


def test_csv_without_split_is_split_by_share(pets, table):
    splits = read(table("path,label\n" + "\n".join(pet_rows(pets))))
    assert splits.class_names == ("cat", "dog")
    assert sizes(splits) == [[5, 5], [2, 2], [3, 3]]
    splits.train.source.load(splits.train.indices[0])
    absolute = read(table("path,label\n" + "\n".join(pet_rows(pets, absolute=True)[::-1]), "other.csv"))
    assert names(absolute) == names(splits)


def test_csv_with_split(pets, table):
    rows = pet_rows(pets)
    splits = [*["train"] * 7, "Testing", "test", "valid"] * 2
    text = " Label ,split,path\n" + "\n".join(
        f"{row.split(',')[1]} ,{split},{row.split(',')[0]}" for row, split in zip(rows, splits, strict=True)
    )
    read_back = read(table(text, encoding="utf-8-sig"))
    assert sizes(read_back) == [[7, 7], [1, 1], [2, 2]]
    assert read_back.val.names() == ["pets/cat/009.png", "pets/dog/009.png"]
    text = text.replace("valid", "train")
    assert sizes(read(table(text))) == [[6, 6], [2, 2], [2, 2]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column path and label; its first line holds nothing"),
        ("path,label\n", "lists no images"),
        ("file,label\na.png,a\n", "no column path; its first line holds file, label"),
        ("path;label\na.png;a\n", "its first line holds path;label"),
        ("path,label,split\nx.png,cat,tran\n", "line 2: split 'tran' is unknown (did you mean 'train'?)"),
        ("path,label,split\npets/cat/000.png,cat\n", "line 2: split '' is unknown"),
        ("path,label\npets/cat/000.png,\n", "line 2: label is empty"),
        ("path,label\n,cat\n", "line 2: path is empty"),
        ("path,label\npets/x.png,a\npets/./x.png,b\n", "lists 1 paths more than once: pets/x.png"),
        ("path,label\npets/cat/000.png,a\npets/cat/001.png,a\n", "only the class 'a'"),
        ("path,label,split\npets/cat/000.png,a,test\npets/cat/001.png,b,test\n", "no train images: a, b"),
    ],
)
def test_wrong_csv(table, text, message):
    assert message in error(table(text))


def test_csv_counts_missing_files(pets, table):
    rows = [*pet_rows(pets), *(f"gone/{i}.png,cat" for i in range(7))]
    text = error(table("path,label\n" + "\n".join(rows)), DataNotFoundError)
    assert "7 of 27 images" in text
    assert all(f"gone/{i}.png" in text for i in range(5))
    assert "gone/5.png" not in text


def test_csv_in_another_encoding(table):
    assert "UTF-8" in error(table("path,label\ncaf\u00e9.png,a\n", encoding="latin-1"))


# --- names and templates ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("classnames.json", json.dumps({"dog": "good boy", "cat": "house_cat", "ant": "spare"})),
        ("classnames.json", json.dumps(["house_cat", "good boy"])),
        ("classnames.txt", "dog good boy\n\ncat   house_cat\n"),
        ("classnames.txt", "dog\tgood boy\ncat\thouse_cat\n"),
        ("classnames.txt", "\ufeffhouse_cat\ngood boy\n"),
    ],
)
def test_class_names(pets, file, content):
    (pets / file).write_text(content, encoding="utf-8")
    pets_data = data(pets)
    pets_data.setup()
    assert pets_data.classes.names == ("house_cat", "good boy")
    assert pets_data.classes.prompts()[0] == ["a photo of a house cat."]
    assert [Path(p).parts[0] for p in pets_data.train.names()] == ["cat", "cat", "dog", "dog"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("classnames.json", '{"cta": "a", "dog": "b"}', "1 of 2 classes: cat (did you mean 'cta'?)"),
        ("classnames.json", '["a", "b", "c"]', "3 names for 2 classes (cat, dog)"),
        ("classnames.json", '["dog", "cat"]', "in another order"),
        ("classnames.json", '{"cat": "a", "dog": " "}', "none of them empty"),
        ("classnames.json", '{"cat": "a", "dog": 3}', "none of them empty"),
        ("classnames.json", '"cat"', "a list of names"),
        ("classnames.json", "{", "not valid JSON"),
        ("classnames.txt", "cat house cat\n", "no name for 1 of 2 classes: dog"),
        ("classnames.txt", "one\n", "1 names for 2 classes"),
        ("classnames.txt", "", "0 names for 2 classes"),
    ],
)
def test_wrong_class_names(pets, file, content, message):
    (pets / file).write_text(content)
    text = error(pets)
    assert message in text
    assert file in text


def test_two_files_of_class_names(pets):
    for file in ("classnames.json", "classnames.txt"):
        (pets / file).write_text("[]")
    assert "both" in error(pets)


def test_equal_class_names_are_warned_of(pets, caplog):
    (pets / "classnames.json").write_text('["pet", "pet"]')
    assert read(pets).class_names == ("pet", "pet")
    assert "one name: pet" in caplog.text


def test_class_names_beside_a_csv(pets, table):
    file = table("path,label\n" + "\n".join(pet_rows(pets)))
    (file.parent / "classnames.txt").write_text("cat Katze\ndog Hund\n")
    assert read(file).class_names == ("Katze", "Hund")


def test_templates(pets):
    assert data(pets).templates == ("a photo of a {}.",)
    (pets / "templates.txt").write_text("a {}, a pet.\n\n the {} \n")
    assert data(pets).templates == ("a {}, a pet.", "the {}")
    assert data(pets, templates=["my {}"]).templates == ("my {}",)
    (pets / "templates.txt").write_text("a pet.\n")
    with pytest.raises(UserError, match=r"'a pet\.' must hold"):
        data(pets)


# --- the configuration -----------------------------------------------------------------------------------


def test_yaml_fits_the_class(pets):
    node = OmegaConf.load(CONF_DIR / "data" / "folder.yaml")
    node.update({"name": "mine", "root": str(pets), "shots": 3, "split_seed": 1})
    config = OmegaConf.to_container(node, resolve=True)
    check_keys(config, "data")
    built = FolderData(**{key: value for key, value in config.items() if key != "_target_"})
    built.setup()
    assert built.describe() | {"draw_sha256": ""} == {
        "draw_sha256": "", "classes": 2, "train": 6, "val": 4, "short_classes": {},
    }  # fmt: skip
