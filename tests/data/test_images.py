"""Reading image files: modes, broken files, and hashes that follow the content."""

import os
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmadapt.data import images as images_module
from mmadapt.data.images import BadImageError, FileHashes, ImageFiles, ImageSet, to_rgb

RED, WHITE = (200, 10, 20), (255, 255, 255)


def load(path):
    return ImageFiles(path.parent, (path.name,)).load(0)


def first_pixel(path):
    image = load(path)
    assert image.mode == "RGB"
    return image.getpixel((0, 0))


def palette(transparent):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, *RED])
    if transparent:
        image.info["transparency"] = 1
    return image


@pytest.mark.parametrize(
    ("image", "suffix", "expected"),
    [
        (Image.new("RGB", (4, 4), RED), ".png", RED),
        (Image.new("RGBA", (4, 4), (*RED, 0)), ".png", RED),
        (palette(False), ".png", RED),
        (palette(True), ".png", RED),
        (palette(True), ".gif", RED),
        (Image.new("L", (4, 4), 77), ".png", (77, 77, 77)),
        (Image.new("LA", (4, 4), (77, 0)), ".png", (77, 77, 77)),
        (Image.new("1", (4, 4), 1), ".png", WHITE),
        (Image.new("1", (4, 4), 0), ".png", (0, 0, 0)),
        (Image.new("CMYK", (4, 4), (0, 255, 255, 0)), ".tif", (255, 0, 0)),
        (Image.fromarray(np.full((4, 4), 0x8080, np.uint16)), ".png", (128, 128, 128)),
        (Image.fromarray(np.full((4, 4), 200, np.uint16)), ".png", (1, 1, 1)),
        (Image.fromarray(np.full((4, 4), 65535, np.uint16)), ".tif", WHITE),
        (Image.fromarray(np.full((4, 4), 0x8080, np.int32)), ".tif", (128, 128, 128)),
        (Image.fromarray(np.full((4, 4), 200, np.int32)), ".tif", (200, 200, 200)),
        (Image.fromarray(np.full((4, 4), -5, np.int32)), ".tif", (0, 0, 0)),
        (Image.fromarray(np.full((4, 4), 0.5, np.float32)), ".tif", (128, 128, 128)),
        (Image.fromarray(np.full((4, 4), 200.0, np.float32)), ".tif", (200, 200, 200)),
        (Image.fromarray(np.full((4, 4), 65535.0, np.float32)), ".tif", WHITE),
    ],
    ids=lambda value: getattr(value, "mode", None),
)
def test_modes(tmp_path, image, suffix, expected):
    image.save(tmp_path / f"image{suffix}")
    with Image.open(tmp_path / f"image{suffix}") as reread:
        assert reread.mode == image.mode
    assert first_pixel(tmp_path / f"image{suffix}") == expected


def test_jpeg_in_cmyk(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "print.jpg")
    assert np.allclose(first_pixel(tmp_path / "print.jpg"), (254, 0, 0), atol=4)


def test_float_image_with_nan_is_readable():
    values = np.full((4, 4), 0.5, np.float32)
    values[0, 0] = np.nan
    pixels = np.asarray(to_rgb(Image.fromarray(values)))
    assert pixels[0, 0].tolist() == [0, 0, 0]
    assert pixels[1, 1].tolist() == [128, 128, 128]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".gif", ".tif"])
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_truncated_file_is_bad(tmp_path, write_image, suffix, share):
    path = write_image(tmp_path / f"cut{suffix}", size=64)
    content = path.read_bytes()
    load(path)
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(BadImageError, match=f"cut{suffix}"):
        load(path)


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\xff\xd8\xff"])
def test_what_is_no_image_is_bad(tmp_path, content):
    (tmp_path / "page.jpg").write_bytes(content)
    with pytest.raises(BadImageError, match=r"page\.jpg is not an image file"):
        load(tmp_path / "page.jpg")


def test_missing_and_unreadable_files_are_bad(tmp_path):
    with pytest.raises(BadImageError, match=r"gone.png cannot be decoded"):
        load(tmp_path / "gone.png")
    with pytest.raises(BadImageError, match=r"gone.png cannot be read: No such file"):
        FileHashes()(tmp_path / "gone.png")


@pytest.mark.parametrize("error", [RuntimeError("decoder"), EOFError(), MemoryError(), IndexError("tile")])
def test_any_failure_of_a_decoder_is_a_bad_image(tmp_path, write_image, monkeypatch, error):
    path = write_image(tmp_path / "odd.png")

    def fail(image):
        raise error

    monkeypatch.setattr(images_module, "to_rgb", fail)
    with pytest.raises(BadImageError, match=r"odd\.png cannot be decoded: "):
        load(path)


def test_decompression_bomb_is_bad(tmp_path, write_image, monkeypatch):
    path = write_image(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(BadImageError, match=r"bomb\.png cannot be decoded"):
        load(path)


@pytest.fixture
def settled(monkeypatch):
    """Files count as settled at once, so that their hashes are remembered."""
    monkeypatch.setattr(images_module, "_TICK_NS", -(10**12))


def test_hash_follows_content(tmp_path, write_image):
    first, second = write_image(tmp_path / "a.png", 1), write_image(tmp_path / "b.png", 2)
    copy = tmp_path / "copy.png"
    copy.write_bytes(first.read_bytes())
    hashes = FileHashes()
    assert hashes(first) == hashes(copy) != hashes(second)


def test_hash_is_remembered_between_processes(tmp_path, write_image, settled, monkeypatch):
    path = write_image(tmp_path / "a.png")
    hashes = FileHashes(tmp_path / "memory")
    digest = hashes(path)
    hashes.save()
    monkeypatch.setattr(images_module.hashlib, "file_digest", None)
    assert FileHashes(tmp_path / "memory")(path) == digest
    monkeypatch.chdir(tmp_path)
    assert FileHashes(tmp_path / "memory")(Path("a.png")) == digest


def test_changed_file_is_hashed_again_even_with_its_old_mtime(tmp_path, settled):
    path = tmp_path / "a.bin"
    path.write_bytes(b"one")
    hashes = FileHashes(tmp_path / "memory")
    before, stat = hashes(path), path.stat()
    hashes.save()
    time.sleep(0.02)  # longer than a tick of ctime
    path.write_bytes(b"two")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert hashes(path) != before
    assert FileHashes(tmp_path / "memory")(path) != before


def test_file_just_written_is_not_trusted_yet(tmp_path, monkeypatch):
    """Two writes within one tick of the file system's clock leave size, mtime and ctime as they were."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"one")
    stat, hashes = path.stat(), FileHashes()
    with monkeypatch.context() as patch:
        patch.setattr(images_module.os, "stat", lambda *_, **__: stat)
        before = hashes(path)
        path.write_bytes(b"two")
        after = hashes(path)
    assert after != before


def test_hashes_with_names_outside_unicode(tmp_path, settled):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))
    try:
        path.write_bytes(b"content")
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    hashes = FileHashes(tmp_path / "memory")
    digest = hashes(path)
    hashes.save()
    assert list(FileHashes(tmp_path / "memory")._known.values()) == [digest]


def test_hashes_work_without_their_memory(tmp_path, settled):
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "files.sqlite").write_bytes(b"this is no database" * 100)
    (tmp_path / "a.bin").write_bytes(b"content")
    with pytest.warns(UserWarning, match="not remembered"):
        hashes = FileHashes(tmp_path / "memory")
    assert hashes(tmp_path / "a.bin") == FileHashes()(tmp_path / "a.bin")
    hashes.save()


def test_memory_has_one_row_per_path(tmp_path, settled):
    path = tmp_path / "a.bin"
    hashes = FileHashes(tmp_path / "memory")
    for content in (b"1", b"22", b"333"):
        path.write_bytes(content)
        hashes(path)
        hashes.save()
    with sqlite3.connect(tmp_path / "memory" / "files.sqlite") as connection:
        assert connection.execute("SELECT size FROM files").fetchall() == [(3,)]


def test_image_set_selects_and_keeps_classes(tmp_path):
    source = ImageFiles(tmp_path, tuple("abcdef"))
    images = ImageSet.of(source, [0, 1, 2, 0, 1, 2])
    chosen = images.select([5, 4, 0])
    assert (chosen.names(), chosen.labels.tolist()) == (["f", "e", "a"], [2, 1, 0])
    kept = images.keep_classes(range(1, 3))
    assert (kept.names(), kept.labels.tolist()) == (["b", "c", "e", "f"], [0, 1, 0, 1])
    assert len(images.select([])) == 0
