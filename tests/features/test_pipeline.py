"""The pass through the frozen towers: order, errors and bounds of the threads, and rows that depend on nothing else."""

import threading

import pytest
import torch

from mmadapt.clip.onednn import packable
from mmadapt.data.images import BadImageError, ImageFiles, ImageSet
from mmadapt.errors import UserError
from mmadapt.features import encoder as features_module
from mmadapt.features.encoder import FeatureEncoder, Views
from mmadapt.features.pipeline import GPU_BATCH, _staged, batch_size, encode_images, encode_prompts
from mmadapt.features.store import FeatureStore


def threads_left():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("mmadapt")]


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    """No test may leave a thread, or another number of torch threads."""
    before = torch.get_num_threads()
    yield
    assert threads_left() == []
    assert torch.get_num_threads() == before


@pytest.fixture
def images(tmp_path, write_image):
    """Forty images."""
    paths = tuple(f"{i}.png" for i in range(40))
    for i, path in enumerate(paths):
        write_image(tmp_path / "images" / path, seed=i, size=40)
    return ImageSet.of(ImageFiles(tmp_path / "images", paths), [0] * 40)


@pytest.fixture
def small_batches(monkeypatch):
    """Batches of four, so that forty images are many of them."""
    monkeypatch.setattr(features_module, "batch_size", lambda clip: 4)


# --- rows ------------------------------------------------------------------------------------------------


def encode(clip, root, images, **options):
    return FeatureEncoder(clip, FeatureStore(root)).image_features(images, **options).image_features


@pytest.mark.parametrize("views", [Views(), Views(3)])
def test_rows_do_not_depend_on_workers_threads_or_grouping(
    images, small_clip, tmp_path, small_batches, views
):
    here = encode(small_clip, tmp_path / "0", images, views=views, workers=0)
    for workers in (None, 1, 2, 7):
        assert torch.equal(
            encode(small_clip, tmp_path / str(workers), images, views=views, workers=workers), here
        )
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert torch.equal(encode(small_clip, tmp_path / "more threads", images, views=views), here)
    finally:
        torch.set_num_threads(threads)
    chosen = [31, 5, 8, 2, 39]
    assert torch.equal(
        encode(small_clip, tmp_path / "some", images.select(chosen), views=views), here[:, chosen]
    )


def test_other_batch_or_kernels_are_another_space(images, small_clip, tmp_path, monkeypatch):
    def encoded():
        encoder = FeatureEncoder(small_clip, FeatureStore(tmp_path))
        encoder.image_features(images)
        return encoder.encoded

    assert [encoded(), encoded()] == [40, 0]
    with monkeypatch.context() as patch:
        patch.setattr(features_module, "batch_size", lambda clip: 4)
        assert encoded() == 40
    monkeypatch.setattr(features_module, "packable", lambda clip: not packable(clip))
    assert encoded() == 40


def test_prompts_do_not_depend_on_their_batch(small_clip):
    tokens = small_clip.tokenize([f"a photo of {i} cats" for i in range(21)])
    rows = torch.cat(list(encode_prompts(small_clip, tokens)))
    assert rows.shape == (21, small_clip.dim)
    assert torch.equal(torch.cat(list(encode_prompts(small_clip, tokens[13:16]))), rows[13:16])
    assert list(encode_prompts(small_clip, tokens[:0])) == []


class OnGpu:
    """A backbone that claims to be on a GPU with memory for some images only."""

    def __init__(self, clip, fits):
        self.transform, self.device, self.fits, self.tried = clip.transform, torch.device("cuda"), fits, []

    def encode_image(self, images):
        self.tried.append(len(images))
        if len(images) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return images


def test_batch_is_halved_until_it_fits_on_a_gpu(small_clip):
    assert batch_size(OnGpu(small_clip, 10_000)) == GPU_BATCH
    tight = OnGpu(small_clip, 100)
    assert batch_size(tight) == 64
    assert tight.tried == [256, 128, 64]


@pytest.mark.parametrize(("side", "batch"), [(224, 8), (32, 64), (336, 3), (1024, 2)])
def test_batch_on_a_cpu_follows_the_image_size(small_clip, monkeypatch, side, batch):
    monkeypatch.setattr(small_clip.transform, "size", (side, side))
    assert batch_size(small_clip) == batch


def numbered(clip, broken=()):
    """Images whose pixels are all their position."""

    def decode(items):
        pixels = torch.stack([torch.full((3, *clip.transform.size), position / 100) for position, _ in items])
        return pixels, torch.tensor([position not in broken for position, _ in items])

    return decode


@pytest.mark.parametrize(("count", "part"), [(1, 4), (16, 4), (37, 4), (37, 8), (0, 4)])
def test_gpus_path_gives_the_same_rows(small_clip, count, part):
    items = [(i, 0) for i in range(count)]
    parts = [items[start : start + part] for start in range(0, count, part)]
    batches = list(_staged(small_clip, numbered(small_clip, {3, 20}), parts, 8, 2))
    assert [len(rows) for rows in batches] == [min(8, count - start) for start in range(0, count, 8)]
    direct = list(encode_images(small_clip, numbered(small_clip, {3, 20}), items, 8, 2))
    assert all(torch.equal(a.nan_to_num(7), b.nan_to_num(7)) for a, b in zip(batches, direct, strict=True))
    bad = [i for i, row in enumerate(row for rows in batches for row in rows) if row.isnan().all()]
    assert bad == [i for i in (3, 20) if i < count]


# --- when something goes wrong -----------------------------------------------------------------------------


def test_decoded_batches_in_flight_are_bounded(images, small_clip, tmp_path, small_batches, monkeypatch):
    held, most, lock = 0, 0, threading.Lock()
    decode, tower = features_module._Views.__call__, type(small_clip).encode_image

    def counting(self, items):
        nonlocal held, most
        with lock:
            held += 1
            most = max(most, held)
        return decode(self, items)

    def releasing(self, pixels, **options):
        nonlocal held
        rows = tower(self, pixels, **options)
        with lock:
            held -= 1
        return rows

    monkeypatch.setattr(features_module._Views, "__call__", counting)
    monkeypatch.setattr(type(small_clip), "encode_image", releasing)
    encode(small_clip, tmp_path / "store", images, workers=3)
    assert 1 <= most <= 3
    assert held == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_image_is_named_whatever_the_workers(images, small_clip, tmp_path, small_batches, workers):
    path = images.source.root / "17.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(BadImageError, match=r"1 of 40 images cannot be decoded: 17\.png.*on_bad_image=skip"):
        encode(small_clip, tmp_path / "store", images, workers=workers)
    again = FeatureEncoder(small_clip, FeatureStore(tmp_path / "store"))
    again.image_features(images.select([i for i in range(40) if i != 17]))
    assert again.encoded == 0


def test_other_errors_of_a_worker_come_through(images, small_clip, tmp_path, small_batches, monkeypatch):
    def fail(self, index):
        raise ZeroDivisionError(index)

    monkeypatch.setattr(ImageFiles, "load", fail)
    with pytest.raises(ZeroDivisionError, match="0"):
        encode(small_clip, tmp_path / "store", images, workers=2)


def test_store_that_cannot_be_written_ends_the_threads(
    images, small_clip, tmp_path, small_batches, monkeypatch
):
    monkeypatch.setattr(features_module, "_SHARD", 8)
    (tmp_path / "store").mkdir()
    store = FeatureStore(tmp_path / "store")
    encoder = FeatureEncoder(small_clip, store)
    monkeypatch.setattr(store, "root", tmp_path / "images" / "0.png")
    with pytest.raises(UserError, match="cannot be stored"):
        encoder.image_features(images, workers=2)
    assert encoder.encoded < 40
