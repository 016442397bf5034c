"""The published data sets: found under every alias, run end to end, and refused with reasons when broken."""

import json
import os
import shutil
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tests.support import benchmark_trees as trees

from mmadapt.config.build import instantiate
from mmadapt.config.hydra_versions import BASE
from mmadapt.config.identity import fingerprint
from mmadapt.config.paths import CONF_DIR
from mmadapt.config.schema import register_resolvers, resolve
from mmadapt.data.published.imagenet import wnids
from mmadapt.errors import DataNotFoundError, UserError
from mmadapt.runs.job import execute

register_resolvers()
FOLDERS = {
    name: [f for f in OmegaConf.load(CONF_DIR / "data" / f"{name}.yaml").folders if f != "."]
    for name in trees.NAMES
}


def config(root, name, *overrides, method="zero_shot"):
    fixed = [f"data={name}", "clip=tiny", f"method={method}", "trainer=cpu", "logger=none",
             f"paths.data={root}",
             f"paths.features={root}/features", f"paths.results={root}/runs", "shots=1"]  # fmt: skip
    with initialize_config_dir(str(CONF_DIR), **BASE):
        return compose("config", overrides=[*fixed, *overrides])


def choices(name, method="zero_shot"):
    return {
        "data": name,
        "clip": "tiny",
        "method": method,
        "protocol": "few_shot",
        "trainer": "cpu",
        "logger": "none",
    }


def load(root, name, *overrides):
    data = instantiate(resolve(config(root, name, *overrides))["data"], "data")
    data.setup()
    data.setup("test")
    return data


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """All data sets in CoOp's layout; read only."""
    root = tmp_path_factory.mktemp("benchmarks")
    for name in trees.NAMES:
        trees.write(root, name, FOLDERS[name][0])
    return root


@pytest.fixture(scope="session")
def val_only(tmp_path_factory):
    return trees.write_imagenet(tmp_path_factory.mktemp("val_only"), train=0).parent


@pytest.mark.parametrize("name", trees.NAMES)
def test_runs_end_to_end(root, tmp_path, name):
    for method, overrides in (("zero_shot", ()), ("clip_adapter", ("method.epochs=1", "method.views=1"))):
        cfg = config(root, name, *overrides, method=method)
        outcome = execute(cfg, choices(name, method), tmp_path / method, [])
        assert outcome.status == "done"
        result = json.loads((tmp_path / method / "result.json").read_text())
        classes = result["data"]["classes"]
        expected = {"imagenet_a": 200, "imagenet_r": 200}.get(name, 1000 if name in trees.IMAGENET else None)
        assert expected in (None, classes)
        assert result["scores"]["test"]["classes"] == classes
        assert result["data"]["train"] == classes
        assert result["data"]["sampling"] == "coop"
        assert result["data"]["val_source"] == ("train" if name in trees.IMAGENET else "val")


@pytest.mark.parametrize(("name", "folder"), [(n, f) for n in trees.SPLIT_FILES for f in FOLDERS[n][1:]])
def test_aliases_of_split_sets(tmp_path, name, folder):
    trees.write(tmp_path, name, folder)
    data = load(tmp_path, name)
    assert len(data.classes) == len(trees.CLASSES[name])


@pytest.mark.parametrize("folder", FOLDERS["fgvc_aircraft"][1:])
def test_aliases_of_fgvc(tmp_path, folder):
    trees.write_fgvc(tmp_path, folder)
    assert load(tmp_path, "fgvc_aircraft").classes.names == tuple(trees.VARIANTS)


@pytest.mark.parametrize("name", trees.IMAGENET)
def test_aliases_of_imagenet(root, tmp_path, name):
    for folder in FOLDERS[name][1:]:
        moved = tmp_path / folder.replace("/", "_") / folder
        moved.parent.mkdir(parents=True)
        inner = "images" if name == "imagenet" and "CLS-LOC" in folder else ""
        moved.symlink_to(root / FOLDERS[name][0] / inner)
        top = tmp_path / folder.replace("/", "_")
        assert len(load(top, name, f"paths.features={tmp_path}")._splits.test) == (
            200 if name[-2:] in ("_a", "_r") else 1000
        )


def test_dir_overrides_and_place_is_not_part_of_the_fingerprint(root, tmp_path):
    elsewhere = trees.write(tmp_path, "dtd", "my textures")
    data = load(tmp_path / "nothing", "dtd", f"data.dir='{elsewhere}'")
    assert data.drawn == load(root, "dtd").drawn
    here = fingerprint(resolve(config(root, "dtd")))
    there = fingerprint(resolve(config(tmp_path, "dtd", f"data.dir='{elsewhere}'")))
    assert here == there
    assert here != fingerprint(resolve(config(root, "dtd", "data.sampling=tip")))


def test_split_file_beside_or_above_the_images(tmp_path):
    home = trees.write(tmp_path, "dtd", "dtd/dtd")
    name = trees.SPLIT_FILES["dtd"][0]
    (home / name).rename(tmp_path / "dtd" / name)  # torchvision's images with CoOp's split file
    assert len(load(tmp_path, "dtd").classes) == 3
    (tmp_path / "splits").mkdir()
    (tmp_path / "dtd" / name).rename(tmp_path / "splits" / name)
    assert len(load(tmp_path, "dtd").classes) == 3
    assert len(load(tmp_path, "dtd", f"data.split_file={tmp_path}/splits/{name}").classes) == 3


def test_an_empty_alias_does_not_hide_the_images(tmp_path):
    home = trees.write(tmp_path, "caltech101", "caltech101")
    (tmp_path / "caltech-101").mkdir()
    (home / "split_zhou_Caltech101.json").rename(tmp_path / "caltech-101" / "split_zhou_Caltech101.json")
    assert load(tmp_path, "caltech101").train.source.root == home / "101_ObjectCategories"


def test_names_keep_slashes_and_lose_underscores(root):
    assert load(root, "stanford_cars").classes.prompts()[1] == [
        "a photo of a 2012 Ram C/V Cargo Van Minivan."
    ]
    assert load(root, "fgvc_aircraft").classes.prompts()[1] == ["a photo of a F-16A/B, a type of aircraft."]
    assert load(root, "oxford_pets").classes.prompts()[1] == ["a photo of a american bulldog, a type of pet."]
    assert load(root, "sun397").classes.prompts()[1] == ["a photo of a outdoor apartment building."]


def test_nothing_is_split_without_the_split_file(tmp_path):
    home = trees.write(tmp_path, "eurosat", "eurosat")
    (home / "split_zhou_EuroSAT.json").unlink()
    with pytest.raises(
        DataNotFoundError, match=r"split_zhou_EuroSAT.json.*prepare eurosat --split-only"
    ) as error:
        load(tmp_path, "eurosat")
    assert str(home) in str(error.value)
    assert sorted(path.name for path in home.iterdir()) == ["2750"]


def test_not_found_says_where_it_looked(tmp_path):
    with pytest.raises(DataNotFoundError, match=r"food-101, Food101, food101.*MMADAPT_DATA.*prepare food101"):
        load(tmp_path, "food101")
    with pytest.raises(DataNotFoundError, match=r"data.dir=/nowhere"):
        load(tmp_path, "food101", "data.dir=/nowhere")


def test_missing_images_are_counted_and_named(tmp_path):
    home = trees.write(tmp_path, "dtd", "dtd")
    shutil.rmtree(home / "images" / "blotchy")
    with pytest.raises(
        DataNotFoundError, match=r"7 of 21 images are missing below .*blotchy/blotchy_0004.jpg, .*, …"
    ) as e:
        load(tmp_path, "dtd")
    assert str(e.value).count("blotchy_") == 5
    data = load(tmp_path, "dtd", "data.on_bad_image=skip")
    assert any("7 of 21" in finding for finding in data.describe()["findings"])


def test_upper_and_lower_case_trap_of_ucf101(tmp_path):
    home = trees.write(tmp_path, "ucf101", "ucf101")
    folder = home / "UCF-101-midframes" / "Handstand_Pushups"
    for path in sorted(folder.iterdir()):
        path.rename(folder / path.name.replace("HandStand", "Handstand"))
    if (folder / path.name.replace("Handstand", "HandStand")).exists():
        pytest.skip("this file system ignores case")
    with pytest.raises(
        DataNotFoundError,
        match=r"7 of them differ in upper and lower case only: .*v_HandStand.* is there as .*v_Handstand",
    ):
        load(tmp_path, "ucf101")


@pytest.mark.parametrize(("name", "inner"), [("stanford_cars", "cars_train"), ("dtd", "images")])
def test_nested_folders(tmp_path, name, inner):
    home = trees.write(tmp_path, name, FOLDERS[name][0])
    (home / inner).rename(home / "outer")
    (home / inner).mkdir()
    (home / "outer").rename(home / inner / inner)
    with pytest.raises(DataNotFoundError, match=f"{inner}/{inner}.*: move what it holds"):
        load(tmp_path, name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.pop("val"), "lists train, val and test"),
        (lambda rows: rows["train"].append(["../../etc/passwd", 0, "banded"]), "leaves the image folder"),
        (lambda rows: rows["train"].append(["/etc/passwd", 0, "banded"]), "leaves the image folder"),
        (lambda rows: rows["train"].append(["C:\\x.jpg", 0, "banded"]), "leaves the image folder"),
        (lambda rows: rows["train"].append(["x.jpg", "0", "banded"]), "an entry of train must be"),
        (lambda rows: rows["train"].append(["x.jpg", 0, "striped"]), "both 'banded' and 'striped'"),
        (lambda rows: rows["train"].append(["x.jpg", 7, "striped"]), "without a gap"),
    ],
)
def test_damaged_split_files(tmp_path, change, message):
    rows = trees.split_rows("dtd")
    home = trees.write_split_set(tmp_path, "dtd", "dtd", rows=rows)
    change(rows)
    (home / "split_zhou_DescribableTextures.json").write_text(json.dumps(rows))
    with pytest.raises(UserError, match=message):
        load(tmp_path, "dtd")
    (home / "split_zhou_DescribableTextures.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read as JSON"):
        load(tmp_path, "dtd")


def test_other_counts_than_published_are_reported(root):
    findings = load(root, "dtd").describe()["findings"]
    assert findings == ["not the published data, numbers will not compare: 3 classes instead of 47, "
                        "9 train instead of 2820, 6 val instead of 1128, 6 test instead of 1692."]  # fmt: skip


def test_published_split_is_recognised_in_any_formatting(tmp_path):
    from mmadapt.data.published.locate import read_split_file

    file = tmp_path / "split.json"
    file.write_text(json.dumps(trees.split_rows("dtd"), indent=4))
    published = read_split_file(file).hashes[0][:16]
    for text in (
        json.dumps(trees.split_rows("dtd")),
        file.read_text() + "\n",
        file.read_text().replace("\n", "\r\n"),
    ):
        file.write_bytes(text.encode())
        assert read_split_file(file).is_published(published)
    rows = trees.split_rows("dtd")
    rows["train"].pop()
    file.write_text(json.dumps(rows, indent=4))
    assert not read_split_file(file).is_published(published)


def test_imagenet_v2_folders_are_numbers(root):
    test = load(root, "imagenetv2").test
    names = [name.split("/")[0] for name in test.names()]
    assert names == [str(i) for i in range(1000)]
    assert test.labels.tolist() == list(range(1000))


@pytest.mark.parametrize("name", ["imagenet_a", "imagenet_r"])
def test_shift_of_200_classes(root, name):
    whole, data = load(root, "imagenet"), load(root, name)
    present = wnids(name)
    assert len(data.classes) == 200
    assert [n.split("/")[0] for n in data.test.names()] == list(present)  # README.txt is no class
    assert data.test.labels.tolist() == list(range(200))
    assert [wnids()[label] for label in data.imagenet_labels] == list(present)
    shots = {n for n in whole.train.names() if n.split("/")[1] in present}
    assert set(data.train.names()) == shots
    names = dict(zip(wnids(), whole.classes.names, strict=True))
    assert data.classes.names == tuple(names[wnid] for wnid in present)
    assert load(root, name, "data.subset=new").classes.names == data.classes.names[100:]


def test_imagenet_names_and_duplicates(root):
    names = load(root, "imagenet").classes.names
    assert (names[0], names[657], names[744], names[836], names[837]) == (
        "tench", "missile", "missile", "sunglasses", "sunglasses")  # fmt: skip
    assert (wnids()[657], wnids()[744]) == ("n03773504", "n04008634")


def test_imagenet_flat_val(val_only, tmp_path):
    home = tmp_path / "imagenet" / "images" / "val"
    home.mkdir(parents=True)
    trees.put(home / "ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(UserError, match=r"1 images lie directly in .*val, .*valprep.sh"):
        load(tmp_path, "imagenet")


def test_imagenet_missing_and_empty_class_folders(val_only, tmp_path):
    shutil.copytree(val_only, tmp_path / "copy")
    val = tmp_path / "copy" / "imagenet" / "images" / "val"
    shutil.rmtree(tmp_path / "copy" / "imagenet" / "images" / "train")
    next((val / wnids()[5]).iterdir()).unlink()
    with pytest.raises(DataNotFoundError, match=f"1 of 1000 class folders hold no image in .*: {wnids()[5]}"):
        load(tmp_path / "copy", "imagenet")
    (val / wnids()[5]).rename(val / "goldfish")
    with pytest.raises(
        DataNotFoundError, match=f"1 of 1000 class folders are missing in .*: {wnids()[5]}.*goldfish"
    ):
        load(tmp_path / "copy", "imagenet")


def test_zero_shot_needs_no_training_images(root, tmp_path):
    (tmp_path / "imagenet-rendition").symlink_to(root / "imagenet-rendition")
    cfg = config(tmp_path, "imagenet_r", f"paths.features={root}/features")
    assert execute(cfg, choices("imagenet_r"), tmp_path / "zero", []).result.data["train"] == 0
    cfg = config(
        tmp_path, "imagenet_r", f"paths.features={root}/features", "method.epochs=1", method="clip_adapter"
    )
    with pytest.raises(DataNotFoundError, match=r"imagenet_r: shots come from ImageNet's training images"):
        execute(cfg, choices("imagenet_r", "clip_adapter"), tmp_path / "adapter", [])
    assert not (tmp_path / "adapter" / "result.json").exists()


def test_index_is_remembered_until_a_folder_changes(val_only, tmp_path):
    from mmadapt.data.published import folder_index as index

    folder = tmp_path / "val"
    shutil.copytree(val_only / "imagenet" / "images" / "val", folder)
    os.utime(folder / "n01440764")
    fresh = index.index_folder(folder, tmp_path / "cache")
    assert not (
        tmp_path / "cache"
    ).exists()  # written just now: another file may come within the clock's tick
    for path in folder.iterdir():
        os.utime(path, (1, 1))
    assert index.index_folder(folder, tmp_path / "cache") == fresh
    (file,) = (tmp_path / "cache").iterdir()
    file.write_text(file.read_text().replace("n01440764_00000000", "remembered_00000000"))
    assert index.index_folder(folder, tmp_path / "cache")[0]["n01440764"] == ["remembered_00000000.JPEG"]
    trees.put(folder / "n01440764" / "another.JPEG")
    listed = index.index_folder(folder, tmp_path / "cache")[0]["n01440764"]
    assert listed == ["another.JPEG", "n01440764_00000000.JPEG"]
    file.write_text("damaged")
    os.utime(folder / "n01440764", (1, 1))
    assert index.index_folder(folder, tmp_path / "cache")[0]["n01440764"] == listed
    assert index.index_folder(folder, Path("/proc/nowhere"))[0]["n01440764"] == listed


def test_fgvc_lists(tmp_path):
    home = trees.write_fgvc(tmp_path, "fgvc_aircraft")
    data = load(tmp_path, "fgvc_aircraft")
    assert data.test.names()[0] == "1000021.jpg"
    (home / "images_variant_val.txt").write_text("1000013 F-16A/C\n")
    with pytest.raises(UserError, match=r"variant 'F-16A/C' is not in variants.txt \(did you mean 'F-16A/B'"):
        load(tmp_path, "fgvc_aircraft")
    (home / "images_variant_val.txt").unlink()
    with pytest.raises(DataNotFoundError, match=r"images_variant_val.txt is missing"):
        load(tmp_path, "fgvc_aircraft")


def test_validation_on_test_is_stamped(root, tmp_path):
    data = load(root, "imagenet", "data.val_source=test")
    assert data.val.names() == data.test.names()
    said = data.describe()
    assert said["val_source"] == "test"
    assert any("scores are optimistic" in finding for finding in said["findings"])
    honest = load(root, "imagenet")
    assert honest.drawn.train == data.drawn.train
    assert not set(honest.val.names()) & set(honest.train.names() + honest.test.names())
    with pytest.raises(UserError, match=r"data.val_source='val' is unknown"):
        load(root, "imagenet", "data.val_source=val")


def test_imagenet_shots_follow_sorted_names(root):
    import random

    data = load(root, "imagenet", "shots=1", "data.split_seed=4")
    generator = random.Random(4)
    folder = root / "imagenet" / "images" / "train"
    expected = [generator.sample(sorted(os.listdir(folder / wnid)), 1)[0] for wnid in wnids()]
    assert [name.split("/")[2] for name in data.train.names()] == expected


def test_named_templates_and_prompts_of_a_run(root, tmp_path):
    assert len(load(root, "dtd", "data.templates=openai").classes.prompts()[0]) == 8
    assert len(load(root, "imagenet_a", "data.templates=imagenet7").classes.prompts()[0]) == 7
    content = {
        wnid: [f"prompt {i} of {wnid}." for i in range(1 + label % 2)] for label, wnid in enumerate(wnids())
    }
    (tmp_path / "prompts.json").write_text(json.dumps(content))
    options = (f"data.templates={tmp_path}/prompts.json",)
    assert load(root, "imagenet_r", *options).classes.texts[0] == tuple(content[wnids("imagenet_r")[0]])
    outcome = execute(config(root, "imagenet_r", *options), choices("imagenet_r"), tmp_path / "run", [])
    assert outcome.status == "done"
