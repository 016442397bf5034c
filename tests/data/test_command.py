"""``python -m mmadapt.data``."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tests.support import ROOT
from tests.support import benchmark_trees as trees

from mmadapt.data.__main__ import main


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MMADAPT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("MMADAPT_FEATURES", str(tmp_path / "features"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def run(capsys, *arguments):
    status = main(arguments)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_list_and_help_import_no_torch(tmp_path):
    code = (
        "import sys; from mmadapt.data.__main__ import main\n"
        f"main(['list', '--root', {str(tmp_path)!r}])\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "loaded = {'torch', 'lightning', 'numpy', 'hydra', 'timm'} & set(sys.modules)\n"
        "sys.exit(f'imported {loaded}' if loaded - {'hydra'} else 0)"
    )
    source = ROOT / "src"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(source)},
    )
    assert done.returncode == 0, done.stderr
    assert "python -m mmadapt.data draw dtd" in done.stdout


def test_list_says_what_is_where(root, capsys):
    trees.write(root, "dtd", "DTD")
    trees.write(root, "eurosat", "eurosat")
    (root / "eurosat" / "split_zhou_EuroSAT.json").unlink()
    shutil.rmtree(trees.write(root, "food101", "food-101") / "images")
    (trees.write(root, "ucf101", "ucf101") / "split_zhou_UCF101.json").write_text("{")
    trees.write_fgvc(root, "fgvc_aircraft")
    status, out, _ = run(capsys, "list")
    lines = {line.split()[0]: line for line in out.splitlines() if line}
    assert status == 0
    assert len(lines) == 17
    assert " found " in lines["dtd"]
    assert lines["dtd"].endswith(str(root / "DTD" / "images"))
    for name, state in (("eurosat", "no split file"), ("food101", "no images"), ("ucf101", "split damaged"),
                        ("sun397", "not found"), ("fgvc_aircraft", "found")):  # fmt: skip
        assert f" {state} " in lines[name], lines[name]
    assert "1,281,167" in lines["imagenet"]
    assert "by hand" in lines["imagenet"]
    assert "CC BY-SA 4.0" in lines["oxford_pets"]
    assert lines["oxford_pets"].endswith(f"{root / 'oxford_pets'} (expected)")


def test_check_a_broken_tree(root, capsys):
    home = trees.write(root, "dtd", "dtd")
    shutil.rmtree(home / "images" / "blotchy")
    status, out, _ = run(capsys, "check", "dtd")
    assert status == 1
    assert out.startswith("dtd: FAILED")
    assert "7 of 21 images are missing" in out
    assert out.count("blotchy/blotchy_") == 5


def test_check_decodes(root, capsys):
    home = trees.write(root, "dtd", "dtd")
    (home / "images" / "banded" / "banded_0001.jpg").write_bytes(trees.PICTURES[0][:300])
    status, out, _ = run(capsys, "check", "dtd", "--decode")
    assert status == 1
    assert "3 classes, train 9, val 6, test 6" in out
    assert "1 images cannot be decoded" in out
    assert "banded_0001.jpg" in out
    assert "3 classes instead of 47" in out


def test_check_a_sound_tree_in_another_place(root, tmp_path, capsys):
    home = trees.write(tmp_path / "disk", "dtd", "my dtd")
    options = ("check", "dtd", f"data.dir='{home}'", "data.counts=null", "data.split_sha256=null", "--decode")
    status, out, _ = run(capsys, *options)
    assert (status, "dtd: ok" in out, "every image can be decoded" in out) == (0, True, True)


def test_check_without_names(root, capsys):
    status, _, err = run(capsys, "check")
    assert status == 1
    assert f"No data set was found in {root}" in err
    trees.write(root, "dtd", "dtd")
    trees.write_fgvc(root, "fgvc_aircraft")
    _, out, _ = run(capsys, "check")
    assert [line.split(":")[0] for line in out.splitlines() if not line.startswith(" ")] == [
        "dtd",
        "fgvc_aircraft",
    ]


def test_check_imagenet_without_training_images(root, capsys):
    trees.write_class_folders(root / "imagenet" / "val", trees.wnids())
    status, out, _ = run(capsys, "check", "imagenet", "data.counts=null")
    assert status == 1
    assert "no folder train was found" in out


def test_draw_is_what_a_run_uses(root, tmp_path, capsys):
    trees.write(root, "dtd", "dtd")
    status, out, _ = run(capsys, "draw", "dtd", "--shots", "2", "--seed", "3")
    content = json.loads(out)
    assert status == 0
    assert (content["shots"], content["split_seed"], content["sampling"]) == (2, 3, "coop")
    assert len(content["train"]) == 6
    assert not any(Path(path).is_absolute() for path, _ in content["train"] + content["val"])
    status, _, err = run(
        capsys, "draw", "dtd", "data.sampling=clip_lora", "--shots", "2", "--out", str(tmp_path / "d.json")
    )
    assert status == 0
    other = json.loads((tmp_path / "d.json").read_text())
    assert other["sampling"] == "clip_lora"
    assert other["sha256"] in err


def test_mistakes_end_in_one_sentence(root, capsys):
    for arguments, message in (
        (("check", "dtt"), "no published data set 'dtt' (did you mean 'dtd'?)"),
        (("draw", "dtd", "data.sampling=no"), "data.sampling='no' is unknown"),
        (("draw", "dtd", "data.typo=1"), "typo"),
        (("draw", "dtd"), "split_zhou_DescribableTextures.json"),
        (("prepare", "imagenet"), "has to be fetched by hand"),
    ):
        status, out, err = run(capsys, *arguments)
        assert (status, out) == (1, "")
        assert message in err
        assert "Traceback" not in err


def test_decoding_is_not_fooled_by_a_name(root, capsys):
    home = trees.write(root, "dtd", "dtd")
    Image.new("L", (4, 4)).save(home / "images" / "banded" / "banded_0001.jpg", "PNG")
    _, out, _ = run(capsys, "check", "dtd", "--decode")
    assert "every image can be decoded" in out
