"""Ensembles, files of templates, and prompts written for each class."""

import json

import pytest
import torch

from mmadapt.data.base import ClassSet
from mmadapt.data.templates import parse_templates, read_prompts
from mmadapt.errors import UserError
from mmadapt.features.encoder import average_prompts


def test_ensembles():
    assert len(parse_templates("imagenet7", "dtd")[0]) == 7
    assert parse_templates("imagenet7", "dtd")[0][0] == "itap of a {}."
    assert len(parse_templates("openai80", "dtd")[0]) == 80
    counts = {"imagenet": 80, "imagenet_r": 80, "dtd": 8, "caltech101": 34, "stanford_cars": 8, "eurosat": 3,
              "sun397": 2, "fgvc_aircraft": 2, "food101": 1, "oxford_pets": 1, "oxford_flowers": 1,
              "ucf101": 48}  # fmt: skip
    for data, count in counts.items():
        templates, file = parse_templates("openai", data)
        assert (len(set(templates)), file) == (count, None)


def test_single_list_and_text_file(tmp_path):
    assert parse_templates("a {}.", "x") == (("a {}.",), None)
    assert parse_templates(["a {}.", "the {}."], "x") == (("a {}.", "the {}."), None)
    (tmp_path / "t.txt").write_text("# mine\n\na {}.\n the {}. \n")
    assert parse_templates(str(tmp_path / "t.txt"), "x") == (("a {}.", "the {}."), None)


@pytest.mark.parametrize(
    ("templates", "message"),
    [
        ("openai81", r"'openai81' is no ensemble \(did you mean 'openai80'\?\)"),
        ("openai", "published no ensemble for 'x'"),
        ("/nowhere.txt", "there is no file /nowhere.txt"),
        ("a photo", "is no ensemble"),
        ([], "is empty"),
        (["no place"], "must hold {} once"),
        ("{} and {}", "must hold {} once"),
        ([1], "must hold {} once"),
    ],
)
def test_refused(templates, message):
    with pytest.raises(UserError, match=message):
        parse_templates(templates, "x")


def test_prompts_of_each_class(tmp_path):
    file = tmp_path / "cupl.json"
    content = {
        "missile": ["a missile."],
        "n04008634": ["a projectile.", "a {} in flight."],
        "Tree_frog": "green.",
    }
    file.write_text(json.dumps(content))
    names, ids = ("missile", "missile", "tree frog"), ("n03773504", "n04008634", "n01644373")
    assert parse_templates(str(file), "imagenet")[1] == file
    texts = read_prompts(file, names, ids)
    assert texts == (("a missile.",), ("a projectile.", "a missile in flight."), ("green.",))
    assert ClassSet(names, ("{}",), texts).prompts() == [list(row) for row in texts]
    with pytest.raises(
        UserError, match=r"no prompts for 1 of 2 classes: tree fog \(did you mean 'tree frog'\?\)"
    ):
        read_prompts(file, ("missile", "tree fog"), ())


@pytest.mark.parametrize("content", ["[", "[]", '{"a": []}', '{"a": [1]}', '{"a": [" "]}'])
def test_damaged_prompt_files(tmp_path, content):
    (tmp_path / "p.json").write_text(content)
    with pytest.raises(UserError, match=r"p.json"):
        read_prompts(tmp_path / "p.json", ("a",), ())


def test_classes_may_have_different_numbers_of_prompts():
    each = torch.nn.functional.normalize(
        torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), dim=-1
    )
    ragged = average_prompts(each, [["a"], ["b", "c"], ["d", "e", "f"]])
    for row, part in zip(ragged, each.split([1, 2, 3]), strict=True):
        torch.testing.assert_close(row, torch.nn.functional.normalize(part.mean(0), dim=-1))
    square = average_prompts(each, [["a", "b"]] * 3)
    torch.testing.assert_close(square[1], torch.nn.functional.normalize(each[2:4].mean(0), dim=-1))
