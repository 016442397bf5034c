"""Features on disk: when a row is reused, when it is not, and what crashes and rivals may do to it."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from mmadapt.clip import ClipBackbone
from mmadapt.data.base import ClassSet, FewShotData
from mmadapt.data.images import BadImageError, ImageFiles, ImageSet
from mmadapt.data.splits import Splits
from mmadapt.errors import UserError
from mmadapt.features import store as store_module
from mmadapt.features.encoder import FeatureEncoder, Views, encode_split, without_bad
from mmadapt.features.store import FeatureStore

SPACE = {"kind": "test"}


def row(key):
    """The one right row of a key."""
    return torch.full((4,), float(int(key)))


def fill(keys, calls=None, chunk=100):
    def compute(missing):
        if calls is not None:
            calls.append([keys[i] for i in missing])
        for part in torch.tensor(missing).split(chunk):
            yield torch.stack([row(keys[i]) for i in part.tolist()])

    return compute


def numbered(first, last):
    return [str(i) for i in range(first, last)]


def right(rows, keys):
    return torch.equal(rows, torch.stack([row(key) for key in keys]))


def shards(root):
    return sorted(root.rglob("*.safetensors"))


# --- the store -------------------------------------------------------------------------------------------


def test_rows_are_computed_once_and_kept(tmp_path):
    keys, calls = ["3", "1", "3", "2"], []
    assert right(FeatureStore(tmp_path).fetch(SPACE, keys, fill(keys, calls)), keys)
    assert calls == [["3", "1", "2"]]
    again = FeatureStore(tmp_path)
    assert right(again.fetch(SPACE, keys[::-1], fill([], calls)), keys[::-1])
    more = ["2", "5"]
    assert right(again.fetch(SPACE, more, fill(more, calls)), more)
    assert calls[1:] == [["5"]]


def test_spaces_are_apart_and_described(tmp_path):
    store, calls = FeatureStore(tmp_path), []
    for space in (SPACE, {"kind": "other"}, {"kind": "test", "more": 1}):
        store.fetch(space, ["1"], fill(["1"], calls))
    assert len(calls) == 3
    described = {path.read_text().strip() for path in tmp_path.rglob("space.json")}
    assert '{"kind": "test", "more": 1}' in described
    assert len(described) == 3


def test_order_of_a_spaces_keys_does_not_matter(tmp_path):
    store, calls = FeatureStore(tmp_path), []
    store.fetch({"a": 1, "b": 2}, ["1"], fill(["1"], calls))
    store.fetch({"b": 2, "a": 1}, ["1"], fill(["1"], calls))
    assert len(calls) == 1


def test_rows_of_another_process_are_found(tmp_path):
    ours, theirs, calls = FeatureStore(tmp_path), FeatureStore(tmp_path), []
    ours.fetch(SPACE, ["1"], fill(["1"]))
    theirs.fetch(SPACE, ["2"], fill(["2"]))
    assert right(ours.fetch(SPACE, ["1", "2"], fill([], calls)), ["1", "2"])
    assert calls == []


def test_interrupted_run_keeps_its_chunks(tmp_path):
    keys, calls = numbered(0, 10), []

    def broken(missing):
        yield from list(fill(keys, chunk=3)(missing))[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FeatureStore(tmp_path).fetch(SPACE, keys, broken)
    assert right(FeatureStore(tmp_path).fetch(SPACE, keys, fill(keys, calls)), keys)
    assert calls == [numbered(6, 10)]


def test_rows_that_are_not_finite_are_returned_but_not_stored(tmp_path):
    keys = ["1", "2", "3", "2"]

    def partly(missing):
        rows = torch.stack([row(keys[i]) for i in missing])
        rows[1, 2] = torch.nan
        yield rows

    store, calls = FeatureStore(tmp_path), []
    rows = store.fetch(SPACE, keys, partly)
    assert rows.isnan().any(dim=1).tolist() == [False, True, False, True]
    assert right(rows[[0, 2]], ["1", "3"])
    for later in (store, FeatureStore(tmp_path)):
        assert right(later.fetch(SPACE, keys, fill(keys, calls)), keys)
    assert calls == [["2"]]
    nothing = FeatureStore(tmp_path / "other").fetch(SPACE, ["1"], lambda _: [torch.full((1, 4), torch.nan)])
    assert nothing.isnan().all()
    assert not shards(tmp_path / "other")


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "noise", "header"])
def test_damaged_shard_is_computed_again_with_a_warning(tmp_path, caplog, damage):
    first, second, calls = numbered(0, 50), numbered(50, 60), []
    store = FeatureStore(tmp_path)
    store.fetch(SPACE, first, fill(first))
    (shard,) = shards(tmp_path)
    store.fetch(SPACE, second, fill(second))
    content = bytearray(shard.read_bytes())
    if damage == "bit":
        content[-5] ^= 1
    elif damage == "header":
        content[9] ^= 0xFF
    content = {"cut": content[:-7], "empty": b"", "noise": os.urandom(len(content))}.get(damage, content)
    shard.unlink()
    shard.write_bytes(content)
    keys = first + second
    assert right(FeatureStore(tmp_path).fetch(SPACE, keys, fill(keys, calls)), keys)
    assert calls == [first]
    assert f"Damaged feature shard {shard}" in caplog.text


def test_swapped_keys_are_noticed(tmp_path):
    """A shard whose keys do not belong to its rows has another checksum."""
    keys, calls = ["11", "22"], []
    FeatureStore(tmp_path).fetch(SPACE, keys, fill(keys))
    (shard,) = shards(tmp_path)
    content = shard.read_bytes().replace(b'\\"11\\", \\"22\\"', b'\\"22\\", \\"11\\"')
    assert content != shard.read_bytes()
    shard.unlink()
    shard.write_bytes(content)
    assert right(FeatureStore(tmp_path).fetch(SPACE, keys, fill(keys, calls)), keys)
    assert calls == [keys]


def test_leftover_of_a_killed_writer_is_ignored_and_swept_when_old(tmp_path):
    store = FeatureStore(tmp_path)
    store.fetch(SPACE, ["1"], fill(["1"]))
    young, old = (shards(tmp_path)[0].with_name(f".{age}.safetensors.tmp") for age in ("young", "old"))
    for path in (young, old):
        path.write_bytes(b"half a shard")
    os.utime(old, (time.time() - 10**6,) * 2)
    assert right(FeatureStore(tmp_path).fetch(SPACE, ["1"], fill([])), ["1"])
    assert young.exists()
    assert not old.exists()


def test_unwritable_store_says_what_to_do(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be stored in .*Set paths\.features="):
        FeatureStore(tmp_path / "file").fetch(SPACE, ["1"], fill(["1"]))


def test_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(store_module, "save_file", full)
    with pytest.raises(UserError, match="No space left on device"):
        FeatureStore(tmp_path).fetch(SPACE, ["1"], fill(["1"]))
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"space.json"}


def test_too_few_rows_are_a_bug_that_shows(tmp_path):
    with pytest.raises(RuntimeError, match="2 rows were asked for, 1 were computed"):
        FeatureStore(tmp_path).fetch(SPACE, ["1", "2"], lambda _: [torch.zeros(1, 4)])


def append_many(root, first, last):
    store = FeatureStore(Path(root))
    for start in range(first, last, 5):
        keys = numbered(start, start + 5)
        store.fetch(SPACE, keys, fill(keys))


def test_concurrent_writers_and_a_reader(tmp_path):
    context = multiprocessing.get_context("fork")
    ranges = [(0, 100), (50, 150), (100, 200)]  # half of the rows are written by two
    writers = [context.Process(target=append_many, args=(str(tmp_path), *bounds)) for bounds in ranges]
    for writer in writers:
        writer.start()
    seen, keys = 0, numbered(0, 200)
    while any(writer.is_alive() for writer in writers):
        reader = FeatureStore(tmp_path)
        rows = reader.fetch(SPACE, keys, lambda missing: [torch.full((len(missing), 4), torch.nan)])
        known = rows.isfinite().all(dim=1)
        assert right(rows[known], [key for key, good in zip(keys, known.tolist(), strict=True) if good])
        assert int(known.sum()) >= seen
        seen = int(known.sum())
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    calls = []
    assert right(FeatureStore(tmp_path).fetch(SPACE, keys, fill(keys, calls)), keys)
    assert calls == []


def write_until_killed(root, started):
    original = store_module.save_file

    def stall(tensors, path, metadata):
        original(tensors, path, metadata)
        with open(path, "r+b") as stream:
            stream.truncate(path.stat().st_size // 2)
        started.set()
        time.sleep(60)

    append_many(root, 0, 20)
    store_module.save_file = stall
    append_many(root, 20, 40)


def test_writer_killed_in_mid_write(tmp_path):
    context = multiprocessing.get_context("fork")
    started = context.Event()
    writer = context.Process(target=write_until_killed, args=(str(tmp_path), started))
    writer.start()
    assert started.wait(60)
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    assert list(tmp_path.rglob("*.tmp"))
    keys, calls = numbered(0, 40), []
    assert right(FeatureStore(tmp_path).fetch(SPACE, keys, fill(keys, calls)), keys)
    assert calls == [numbered(20, 40)]


# --- the encoder -----------------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path, write_image):
    """Twelve images of three classes."""
    paths = tuple(f"{i}.png" for i in range(12))
    for i, path in enumerate(paths):
        write_image(tmp_path / "images" / path, seed=i, size=40)
    return ImageSet.of(ImageFiles(tmp_path / "images", paths), [i % 3 for i in range(12)])


@pytest.fixture
def encoder(small_clip, tmp_path):
    """Return an encoder over this test's store; each call stands for another process."""
    return lambda clip=small_clip: FeatureEncoder(clip, FeatureStore(tmp_path / "store"))


def path_of(images, position):
    return images.source.root / images.names()[position]


def test_second_time_nothing_is_encoded(images, encoder):
    first = encoder()
    before = first.image_features(images)
    assert before.image_features.shape == (1, 12, first.clip.dim)
    assert torch.equal(before.labels, images.labels)
    assert first.encoded == 12
    second = encoder()
    after = second.image_features(images)
    assert second.encoded == 0
    assert torch.equal(before.image_features, after.image_features)


def test_features_are_the_towers(images, encoder):
    clip = encoder().clip
    with torch.no_grad():
        direct = clip.encode_image(clip.transform(images.source.load(4))[None])
    stored = encoder().image_features(images).image_features[0, 4]
    torch.testing.assert_close(stored, direct[0], rtol=1e-4, atol=1e-5)


def test_row_does_not_depend_on_its_batch(images, small_clip, encoder, tmp_path):
    encoder().image_features(images.select([7, 2, 9]))
    mixed = encoder().image_features(images).image_features
    fresh = FeatureEncoder(small_clip, FeatureStore(tmp_path / "fresh")).image_features(images).image_features
    assert torch.equal(mixed, fresh)
    alone = FeatureEncoder(small_clip, FeatureStore(tmp_path / "alone")).image_features(images.select([5]))
    assert torch.equal(alone.image_features[0, 0], fresh[0, 5])


def test_changed_file_is_encoded_again(images, encoder, write_image):
    before = encoder().image_features(images).image_features
    path, stat = path_of(images, 3), path_of(images, 3).stat()
    write_image(path, seed=99, size=40)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    changed = encoder()
    after = changed.image_features(images).image_features
    assert changed.encoded == 1
    assert (before != after).any(dim=2)[0].nonzero().flatten().tolist() == [3]


def test_moved_and_equal_files_are_not_encoded_again(images, encoder):
    encoder().image_features(images)
    path_of(images, 0).rename(path_of(images, 0).with_name("moved.png"))
    path_of(images, 1).with_name("copy.png").write_bytes(path_of(images, 1).read_bytes())
    again = encoder()
    again.image_features(ImageSet.of(ImageFiles(images.source.root, ("moved.png", "copy.png")), [0, 0]))
    assert again.encoded == 0


def other_weights(clip):
    return ClipBackbone("small-clip", None, seed=2)


def other_precision(clip):
    return ClipBackbone("small-clip", None, seed=1, precision="bf16")


def other_transform(clip):
    other = ClipBackbone("small-clip", None, seed=1)
    other.transform.spec["interpolation"] = "bilinear"
    return other


@pytest.mark.parametrize("change", [other_weights, other_precision, other_transform])
def test_other_model_is_another_space(images, encoder, change):
    images = images.select([0, 1])
    first = encoder()
    first.image_features(images)
    other = encoder(change(first.clip))
    other.image_features(images)
    assert other.encoded == 2


def test_same_model_built_again_is_the_same_space(images, encoder):
    encoder().image_features(images)
    again = encoder(ClipBackbone("small-clip", None, seed=1))
    again.image_features(images)
    assert again.encoded == 0


def test_views_follow_image_and_number_only(images, encoder, small_clip, tmp_path):
    views = Views(4)
    whole = encoder().image_features(images, views).image_features
    assert whole.shape[:2] == (4, 12)
    torch.manual_seed(5)
    elsewhere = FeatureEncoder(small_clip, FeatureStore(tmp_path / "elsewhere"))
    part = elsewhere.image_features(images.select([8, 3]), Views(2)).image_features
    assert torch.equal(part, whole[:2, [8, 3]])
    assert len(whole[:, 0].unique(dim=0)) == 4
    plain = encoder().image_features(images).image_features
    assert not (whole == plain).all(dim=2).any()


def test_more_views_encode_the_new_ones_only(images, encoder):
    encoder().image_features(images, Views(2))
    more = encoder()
    more.image_features(images, Views(3))
    assert more.encoded == 12
    wider = encoder()
    wider.image_features(images, Views(2, crop_scale=(0.5, 1.0)))
    assert wider.encoded == 24


def test_workers_change_nothing(images, encoder, small_clip, tmp_path):
    here = encoder().image_features(images, Views(2), workers=0).image_features
    other = FeatureEncoder(small_clip, FeatureStore(tmp_path / "workers"))
    assert torch.equal(other.image_features(images, Views(2), workers=2).image_features, here)


def test_no_images(images, encoder):
    nothing = encoder().image_features(images.select([]), Views(3))
    assert nothing.image_features.shape == (3, 0, encoder().clip.dim)


def test_text_features(encoder):
    classes = ClassSet(("red_cat", "dog"), ("a photo of a {}.", "the {}."))
    first = encoder()
    features = first.text_features(classes)
    assert first.encoded == 4
    prompts = ["a photo of a red cat.", "the red cat."]
    with torch.no_grad():
        expected = first.clip.encode_text(prompts, normalize=True).mean(dim=0)
    torch.testing.assert_close(features[0], expected / expected.norm(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2))
    second = encoder()
    assert torch.equal(second.text_features(classes), features)
    assert second.encoded == 0
    more = encoder()
    more.text_features(ClassSet(("red_cat", "dog"), ("a photo of a {}.", "some {}.")))
    assert more.encoded == 2


# --- images that cannot be read --------------------------------------------------------------------------


@pytest.fixture
def broken(images, write_image):
    """The same images; the third is cut short, the sixth is missing."""
    path = write_image(path_of(images, 2).with_suffix(".jpg"), seed=2, size=40).rename(path_of(images, 2))
    path.write_bytes(path.read_bytes()[:-300])
    path_of(images, 5).unlink()
    return images


class Mine(FewShotData):
    """The images as every split of a data set."""

    def __init__(self, images, **options):
        super().__init__(name="mine", shots=4, split_seed=1, **options)
        self.images = images

    def read_splits(self):
        return Splits(("a", "b", "c"), self.images, self.images, self.images)


def test_bad_image_stops_by_default_and_is_named(broken, encoder):
    data = Mine(broken)
    with pytest.raises(BadImageError, match=r"5\.png cannot be read: No such file"):
        encode_split(encoder(), data, broken, "train")
    others = broken.select([0, 1, 2, 3])
    for _ in range(2):  # from the tower, then from the store
        with pytest.raises(BadImageError) as caught:
            encode_split(encoder(), data, others, "train")
        for part in ("1 of 4 images", "2.png", "truncated", "data.on_bad_image=skip"):
            assert part in str(caught.value)


def test_bad_images_are_skipped_counted_and_named(broken, encoder, caplog):
    features, bad = encode_split(encoder(), Mine(broken, on_bad_image="skip"), broken, "train", Views(2))
    assert bad == [2, 5]
    assert features.image_features.shape[:2] == (2, 10)
    assert features.image_features.isfinite().all()
    assert features.labels.tolist() == [i % 3 for i in range(12) if i not in (2, 5)]
    assert "2 train images cannot be decoded and are left out: 2.png, 5.png" in caplog.text


def test_nothing_is_skipped_of_good_images(images, encoder, caplog):
    features, bad = without_bad(encoder().image_features(images), images, "train")
    assert (bad, len(features.labels), caplog.text) == ([], 12, "")


def test_image_that_can_be_read_again_is_no_longer_skipped(broken, encoder, write_image, monkeypatch):
    broken = broken.select([0, 1])

    def fail(self, index):
        raise BadImageError("the network is down")

    with monkeypatch.context() as patch:
        patch.setattr(ImageFiles, "load", fail)
        lost = encoder().image_features(broken, skip_bad=True)
        assert lost.image_features.isnan().all()
    assert encoder().image_features(broken).image_features.isfinite().all()


def test_overflow_is_not_taken_for_a_bad_image(images, encoder, monkeypatch):
    first = encoder()
    tower = first.clip.encode_image

    def overflow(batch):
        rows = tower(batch)
        rows[1] = torch.nan
        return rows

    monkeypatch.setattr(first.clip, "encode_image", overflow)
    with pytest.raises(UserError, match=r"features of 1\.png are not finite in fp32"):
        first.image_features(images, skip_bad=True)


def test_shards_hold_float32(images, encoder, tmp_path):
    encoder(ClipBackbone("small-clip", None, seed=1, precision="bf16")).image_features(images)
    (shard,) = shards(tmp_path / "store")
    with safe_open(shard, framework="pt") as file:
        assert file.get_tensor("features").dtype == torch.float32
