"""Protocols of the draw, against the published draws; draws as files; CoOp's pickles."""

import hashlib
import io
import json
import pickle
import random
import sys
import types
from pathlib import Path

import pytest
import torch
from tests.support import FILES
from tests.support import benchmark_trees as trees

from mmadapt.data.draws import draw_positions
from mmadapt.data.images import ImageFiles, ImageSet
from mmadapt.data.published.draw_file import read_draw
from mmadapt.data.published.split_file import SplitFileData
from mmadapt.data.splits import Splits
from mmadapt.errors import DataNotFoundError, UserError

PARITY = json.loads((FILES / "fewshot_parity.json").read_text())
PARITY.pop("_about")
CASES = [(name, key) for name, entry in PARITY.items() for key in entry["fingerprints"]]


def blocks(sizes, order=None):
    return [order[b] if order else b for b, size in enumerate(sizes) for _ in range(size)]


def digest(positions):
    return hashlib.sha256(json.dumps(list(positions)).encode()).hexdigest()[:32]


class InMemory(SplitFileData):
    """A published data set of which only the class sizes are known."""

    def __init__(self, entry, **options):
        super().__init__(root="/nowhere", folders=["x"], split_file="x.json", name="x", **options)
        order = entry.get("label_order_first_appearance")
        self.all = [blocks(entry[f"{part}_class_sizes"], order) for part in ("train", "val")]

    def read_splits(self):
        train, val = (
            ImageSet.of(ImageFiles(Path("/"), tuple(f"{part}/{i}.jpg" for i in range(len(labels)))), labels)
            for part, labels in zip(("train", "val"), self.all, strict=True)
        )
        return Splits(tuple(map(str, range(max(train.labels.tolist()) + 1))), train, val, val)


@pytest.mark.parametrize(("name", "key"), CASES)
def test_module_draws_the_published_images(name, key):
    shots, seed = map(int, key.split("-"))
    data = InMemory(PARITY[name], shots=shots, split_seed=seed)
    random.seed(7)
    data.setup()
    assert digest(data.drawn.train) == PARITY[name]["fingerprints"][key]["train"]
    assert digest(data.drawn.val) == PARITY[name]["fingerprints"][key]["val"]


def test_tip_adapter_draws_coops_shots_and_keeps_all_of_val():
    entry = PARITY["dtd"]
    data = InMemory(entry, shots=16, split_seed=1, sampling="tip")
    data.setup()
    assert digest(data.drawn.train) == entry["fingerprints"]["16-1"]["train"]
    assert data.drawn.val == tuple(range(len(data.all[1])))
    assert len(data.val) == 1128


@pytest.mark.parametrize(("name", "common"), [("dtd", 203), ("food101", 62), ("stanford_cars", 1528)])
def test_clip_lora_draws_val_first(name, common):
    entry = PARITY[name]
    coop = InMemory(entry, shots=16, split_seed=1)
    lora = InMemory(entry, shots=16, split_seed=1, sampling="clip_lora")
    for data in (coop, lora):
        data.setup()
    assert len(set(coop.drawn.train) & set(lora.drawn.train)) == common  # as counted with the released codes
    assert len(lora.drawn.val) == len(coop.drawn.val)


def test_short_classes():
    labels = blocks([5, 2])
    assert len(draw_positions(labels, labels, 4, 4, 1, "coop")[0]) == 6
    for sampling in ("tip", "clip_lora"):
        train = draw_positions(labels, labels, 4, 4, 1, sampling)[0]
        assert len(train) == 8
        assert set(train[4:]) <= {5, 6}


def test_imagenet_val_comes_from_train_images_that_are_not_shots():
    labels = blocks([50] * 20)
    train, val = draw_positions(labels, None, 16, 4, 3)
    generator = random.Random(3)
    assert train == [p for c in range(20) for p in generator.sample(range(50 * c, 50 * c + 50), 16)]
    assert not set(train) & set(val)
    assert torch.bincount(torch.tensor([labels[p] for p in val])).tolist() == [4] * 20
    assert draw_positions(labels, None, 16, 4, 3, "tip")[0] == train
    generator = random.Random(3)
    both = [generator.sample(range(50 * c, 50 * c + 50), 20) for c in range(20)]
    lora = draw_positions(labels, None, 16, 4, 3, "clip_lora")
    assert lora == ([p for row in both for p in row[:16]], [p for row in both for p in row[16:]])


def test_coops_pickle_of_imagenet_has_no_val(tmp_path, datum):
    images = ImageSet.of(
        ImageFiles(Path("/"), tuple(f"train/n{i // 30}/{i}.JPEG" for i in range(90))), blocks([30] * 3)
    )
    splits = Splits(("a", "b", "c"), images, images, images, val_from_train=True)
    train = [(images.source.name(i), i // 30) for i in (5, 4, 40, 41, 80, 89)]
    coop_pickle(tmp_path / "i.pkl", datum, {"train": train}, "/data/imagenet/images/")
    found = read_draw(tmp_path / "i.pkl", splits, {"shots": 2, "split_seed": 1})
    assert found.train == (5, 4, 40, 41, 80, 89)
    assert [i // 30 for i in found.val] == [0, 0, 1, 1, 2, 2]
    assert not set(found.val) & set(found.train)
    whole = read_draw(tmp_path / "i.pkl", Splits(("a", "b", "c"), images, images, images), {"shots": 2})
    assert len(whole.val) == 90


def test_unknown_sampling():
    with pytest.raises(UserError, match=r"data.sampling='co0p' is unknown \(did you mean 'coop'\?\)"):
        InMemory(PARITY["dtd"], shots=1, split_seed=1, sampling="co0p")


def dtd(root, **options):
    return SplitFileData(name="dtd", root=str(root), folders=["dtd"], images=["images"],
                         split_file="split_zhou_DescribableTextures.json",
                         **{"shots": 2, "split_seed": 1, **options})  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("draws")
    trees.write_split_set(root, "dtd", "dtd", rows=trees.split_rows("dtd", train=9, val=5))
    return root


def drawn(data):
    data.setup()
    return data.drawn


def test_a_draw_can_be_shared(root, tmp_path):
    first = dtd(root, sampling="clip_lora", split_seed=5)
    file = tmp_path / "draw.json"
    file.write_text(json.dumps(first.export_draw()))
    again = dtd(root, draw=str(file), split_seed=9)
    assert drawn(again) == drawn(first)
    content = json.loads(file.read_text())
    assert content["train"][0][0].startswith("banded/banded_")
    assert content["sha256"] == first.drawn.sha256
    half = dtd(root, draw=str(file), subset="base")
    half.setup()
    assert half.train.names() == [n for n in first.train.names() if not n.startswith("polka")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(shots=4), "drawn for shots=4, this run has shots=2. Type shots=4"),
        (lambda c: c.update(data="eurosat"), "drawn for data=eurosat"),
        (lambda c: c.update(version=9), "no draw of this version"),
        (lambda c: c["train"].pop(), "was changed after it was written"),
        (lambda c: c["train"][0].__setitem__(0, "banded/none.jpg"), "1 of 6 .* in this data set: banded/none.jpg"),
        (lambda c: c["train"][0].__setitem__(1, 2), "gives banded/.* the label 2, here it has 0"),
        (lambda c: c.update(val=[["x"]]), r'val must be a list of \["path", label\]'),
    ],
)  # fmt: skip
def test_refused_draw_files(root, tmp_path, change, message):
    content = dtd(root).export_draw()
    change(content)
    (tmp_path / "draw.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        dtd(root, draw=str(tmp_path / "draw.json")).setup()


def test_missing_draw_file(root):
    with pytest.raises(DataNotFoundError, match=r"there is no file /nowhere.json"):
        dtd(root, draw="/nowhere.json").setup()
    with pytest.raises(DataNotFoundError, match=r"no split_fewshot/shot_2-seed_1.pkl"):
        dtd(root, draw="split_fewshot").setup()


@pytest.fixture
def datum(monkeypatch):
    """Dassl's record under Dassl's name, for as long as a test writes pickles."""
    names = ["dassl", "dassl.data", "dassl.data.datasets", "dassl.data.datasets.base_dataset"]
    for name in names:
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))

    class Datum:
        def __init__(self, path, label):
            self._impath, self._label, self._domain, self._classname = path, label, 0, "x"

    Datum.__module__, Datum.__qualname__ = names[-1], "Datum"
    sys.modules[names[-1]].Datum = Datum
    return Datum


def coop_pickle(file, datum, images, prefix):
    file.parent.mkdir(parents=True, exist_ok=True)
    parts = {part: [datum(f"{prefix}{path}", label) for path, label in rows] for part, rows in images.items()}
    file.write_bytes(pickle.dumps(parts, protocol=pickle.HIGHEST_PROTOCOL))


@pytest.mark.parametrize("prefix", ["/home/kaiyang/data/dtd/images/", "D:\\data\\dtd\\images\\"])
def test_coops_pickle(root, tmp_path, datum, prefix):
    content = dtd(root, split_seed=77).export_draw()
    file = tmp_path / "shot_2-seed_1.pkl"
    coop_pickle(file, datum, {part: content[part] for part in ("train", "val")}, prefix)
    data = dtd(root, draw=str(file))
    data.setup()
    assert data.train.names() == [path for path, _ in content["train"]]
    assert data.drawn.sha256 == content["sha256"]


def test_pickle_beside_the_data_is_compared_and_never_silently_used(root, tmp_path, datum):
    (tmp_path / "dtd").mkdir()
    for path in (root / "dtd").iterdir():
        (tmp_path / "dtd" / path.name).symlink_to(path)
    ours = dtd(root).export_draw()
    file = tmp_path / "dtd" / "split_fewshot" / "shot_2-seed_1.pkl"
    coop_pickle(file, datum, {part: ours[part] for part in ("train", "val")}, "/data/dtd/images/")
    assert drawn(same := dtd(tmp_path)).sha256 == ours["sha256"]
    assert same.findings == []
    other = dtd(root, split_seed=3).export_draw()
    coop_pickle(file, datum, {part: other[part] for part in ("train", "val")}, "/data/dtd/images/")
    assert drawn(data := dtd(tmp_path)).sha256 == ours["sha256"]
    assert "has other shots" in "".join(data.findings)
    assert drawn(dtd(tmp_path, draw="split_fewshot")).sha256 == other["sha256"]


class Hostile:
    def __reduce__(self):
        return (exec, ("open('/tmp/mmadapt-was-here', 'w')",))


def test_hostile_pickles_are_refused(root, tmp_path):
    file = tmp_path / "hostile.pkl"
    for payload in (Hostile(), {"train": [Hostile()]}, Path("/"), {"train": [io.BytesIO()]}):
        file.write_bytes(pickle.dumps(payload))
        with pytest.raises(UserError, match="refused to load"):
            dtd(root, draw=str(file)).setup()
    assert not Path("/tmp/mmadapt-was-here").exists()
    for payload in (
        b"",
        b"garbage",
        pickle.dumps([1]),
        pickle.dumps({"train": [1]}),
        pickle.dumps({"train": 3}),
    ):
        file.write_bytes(payload)
        with pytest.raises(UserError, match=r"pickle that CoOp wrote|no draw of CoOp"):
            dtd(root, draw=str(file)).setup()
