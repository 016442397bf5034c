"""Downloads from a local server, unsafe and damaged archives, and what prepare leaves behind."""

import hashlib
import io
import json
import os
import stat
import tarfile
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from tests.support import benchmark_trees as trees

from mmadapt.data.tools.catalogue import automated, catalogue
from mmadapt.data.tools.download import ArchiveError, DownloadError, download, unpacked
from mmadapt.data.tools.fetch import IMAGENET_ARCHIVES, ManualStepError, prepare
from mmadapt.errors import UserError


@pytest.fixture
def server():
    """Serves `files`; `cut` breaks connections off after so many bytes; `log` notes what was asked for."""
    state = SimpleNamespace(files={}, cut=None, log=[], ranges=True)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = state.files.get(self.path)
            state.log.append((self.path, self.headers.get("Range")))
            if body is None:
                return self.send_error(404)
            start = 0
            asked = self.headers.get("Range")
            if asked and state.ranges:
                start = int(asked.removeprefix("bytes=").rstrip("-"))
                if start >= len(body):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(body)}")
                    self.send_header("Content-Length", "0")
                    return self.end_headers()
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            self.wfile.write(body[start:] if state.cut is None else body[start : start + state.cut])
            return None

        def log_message(self, *arguments):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_port}"
    yield state
    http.shutdown()
    http.server_close()


BODY = bytes(range(256)) * 5000
MD5 = hashlib.md5(BODY).hexdigest()


def test_download_resumes_where_it_broke_off(server, tmp_path):
    server.files["/a.bin"], server.cut = BODY, 500_000
    target = tmp_path / "new" / "a.bin"
    for done in (500_000, 1_000_000):
        with pytest.raises(
            DownloadError, match=f"broke off after {done:,} of 1,280,000 bytes. Run the command again"
        ):
            download(f"{server.url}/a.bin", target, md5=MD5)
        assert not target.exists()
    assert download(f"{server.url}/a.bin", target, md5=MD5).read_bytes() == BODY
    assert [asked for _, asked in server.log] == [None, "bytes=500000-", "bytes=1000000-"]
    assert [path.name for path in target.parent.iterdir()] == ["a.bin"]
    download(f"{server.url}/a.bin", target, md5=MD5)
    assert len(server.log) == 3, "a whole file is not fetched again"


@pytest.mark.parametrize(("ranges", "md5"), [(False, MD5), (True, None)])
def test_download_starts_over_where_it_cannot_resume(server, tmp_path, ranges, md5):
    server.files["/a.bin"], server.cut, server.ranges = BODY, 500_000, ranges
    with pytest.raises(DownloadError):
        download(f"{server.url}/a.bin", tmp_path / "a.bin", md5=md5)
    server.cut = None
    assert download(f"{server.url}/a.bin", tmp_path / "a.bin", md5=md5).read_bytes() == BODY


def test_download_does_not_mix_two_versions(server, tmp_path):
    server.files["/a.bin"], server.cut = BODY, 500_000
    new = hashlib.md5(BODY[::-1]).hexdigest()
    with pytest.raises(DownloadError):
        download(f"{server.url}/a.bin", tmp_path / "a.bin", md5=new)
    server.files["/a.bin"], server.cut = BODY[::-1], None
    with pytest.raises(DownloadError, match="is not the published file"):
        download(f"{server.url}/a.bin", tmp_path / "a.bin", md5=new)
    assert download(f"{server.url}/a.bin", tmp_path / "a.bin", md5=new).read_bytes() == BODY[::-1]


def test_a_part_that_is_whole_is_finished(server, tmp_path):
    server.files["/a.bin"] = BODY
    (tmp_path / "a.bin.part").write_bytes(BODY)
    assert download(f"{server.url}/a.bin", tmp_path / "a.bin", md5=MD5).read_bytes() == BODY


def test_wrong_checksum_leaves_nothing(server, tmp_path):
    server.files["/a.bin"] = BODY
    with pytest.raises(DownloadError, match=r"is not the published file .md5 .* instead of 0000"):
        download(f"{server.url}/a.bin", tmp_path / "a.bin", md5="0" * 32)
    assert list(tmp_path.iterdir()) == []


def test_server_failures(server, tmp_path):
    with pytest.raises(DownloadError, match="could not be fetched: Not Found"):
        download(f"{server.url}/none", tmp_path / "none")
    with pytest.raises(DownloadError, match=r"could not be fetched: .*refused"):
        download("http://127.0.0.1:9/none", tmp_path / "none")


def test_file_urls(tmp_path):
    (tmp_path / "source").write_bytes(BODY)
    assert download((tmp_path / "source").as_uri(), tmp_path / "a.bin", md5=MD5).read_bytes() == BODY


def unpack(archive):
    with unpacked(archive) as folder:
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def tar_with(path, *members, mode="w:gz"):
    with tarfile.open(path, mode) as file:
        for name, content, kind in members:
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, len(content) if kind == tarfile.REGTYPE else 0
            info.linkname = content.decode() if kind != tarfile.REGTYPE else ""
            file.addfile(info, io.BytesIO(content))
    return path


def zip_with(path, *members, link=False):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = ((stat.S_IFLNK if link else stat.S_IFREG) | 0o644) << 16
            file.writestr(info, content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("../escaped", b"x", tarfile.REGTYPE),
        ("/tmp/mmadapt-escaped", b"x", tarfile.REGTYPE),
        ("a/../../escaped", b"x", tarfile.REGTYPE),
        ("link", b"/etc/passwd", tarfile.SYMTYPE),
        ("link", b"../../outside", tarfile.SYMTYPE),
        ("hard", b"../../etc/passwd", tarfile.LNKTYPE),
        ("device", b"", tarfile.CHRTYPE),
    ],
)
def test_unsafe_tar(tmp_path, name, content, kind):
    archive = tar_with(tmp_path / "a.tgz", ("good.jpg", b"x", tarfile.REGTYPE), (name, content, kind))
    with pytest.raises(ArchiveError, match=r"is unsafe and was not unpacked: its member"):
        unpack(archive)
    assert [path.name for path in tmp_path.rglob("*")] == ["a.tgz"]


@pytest.mark.parametrize(
    "name", ["../escaped", "/etc/escaped", "a/../../escaped", "C:/escaped", "..\\escaped"]
)
def test_unsafe_zip(tmp_path, name):
    archive = zip_with(tmp_path / "a.zip", ("good.jpg", "x"), (name, "x"))
    with pytest.raises(ArchiveError, match="leads out of the folder"):
        unpack(archive)
    assert [path.name for path in tmp_path.rglob("*")] == ["a.zip"]


def test_links_in_zip_are_plain_files(tmp_path):
    with unpacked(zip_with(tmp_path / "a.zip", ("link", "/etc/passwd"), link=True)) as folder:
        assert not (folder / "link").is_symlink()
        assert (folder / "link").read_text() == "/etc/passwd"


def test_damaged_archives(tmp_path):
    good = zip_with(tmp_path / "a.zip", ("big.bin", BODY))
    damaged = bytearray(good.read_bytes())
    damaged[600_000] ^= 255
    packed = tar_with(tmp_path / "b.tgz", ("big.bin", os.urandom(100_000), tarfile.REGTYPE)).read_bytes()
    for content in (
        bytes(damaged),
        good.read_bytes()[:700_000],
        packed[:60_000],
        b"<html>quota exceeded</html>",
        b"",
    ):
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(ArchiveError, match="damaged"):
            unpack(tmp_path / "bad")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "b.tgz", "bad"]


def entry_of(root, name, source, **facts):
    entry = catalogue(root)[name]
    return replace(entry, facts={**entry.facts, "source": {**entry.facts["source"], **source}, **facts})


def archive_of(folder, prefix, into):
    """Zip or tar a tree under a folder of another name, as official archives have it."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    if into.suffix == ".zip":
        return zip_with(
            into, *((f"{prefix}/{f.relative_to(folder).as_posix()}", f.read_bytes()) for f in files)
        )
    members = [
        (f"{prefix}/{f.relative_to(folder).as_posix()}", f.read_bytes(), tarfile.REGTYPE) for f in files
    ]
    return tar_with(into, *members)


@pytest.fixture
def dtd(tmp_path, server):
    """A server that has DTD, split and images, and its entry with an empty root."""
    home = trees.write(tmp_path / "there", "dtd", "dtd")
    split = home / "split_zhou_DescribableTextures.json"
    server.files["/split.json"] = split.read_bytes()
    split.unlink()
    server.files["/dtd.tar.gz"] = archive_of(home, "dtd", tmp_path / "dtd.tar.gz").read_bytes()
    md5 = hashlib.md5(server.files["/dtd.tar.gz"]).hexdigest()
    sha256 = hashlib.sha256(server.files["/split.json"]).hexdigest()[:16]
    source = {"archives": [{"url": f"{server.url}/dtd.tar.gz", "md5": md5}],
              "split": f"{server.url}/split.json", "mirror": f"{server.url}/mirror.zip"}  # fmt: skip
    return entry_of(tmp_path / "data", "dtd", source, split_sha256=sha256)


def found(root):
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def test_prepare_fetches_split_and_images_once(dtd, server, tmp_path, capsys):
    prepare(dtd)
    assert dtd.status() == "found"
    assert len(found(tmp_path / "data")) == 22
    assert (tmp_path / "data" / "dtd" / "images" / "banded").is_dir()
    asked = len(server.log)
    prepare(dtd)
    assert len(server.log) == asked
    said = capsys.readouterr().out.splitlines()
    assert "done, in" in said[-2]
    assert "images are in" in said[-1]


def test_prepare_goes_on_after_an_interruption(dtd, server, tmp_path):
    prepare(dtd, split_only=True)
    server.cut = 500
    with pytest.raises(DownloadError, match="Run the command again"):
        prepare(dtd)
    assert not (tmp_path / "data" / "dtd" / "images").exists()
    server.cut = None
    prepare(dtd)
    assert server.log[-1] == ("/dtd.tar.gz", "bytes=500-")
    assert dtd.status() == "found"


def test_prepare_refuses_another_split(dtd, server, tmp_path):
    server.files["/split.json"] = json.dumps(trees.split_rows("dtd", train=1)).encode()
    with pytest.raises(DownloadError, match="is not the published split file"):
        prepare(dtd)
    server.files["/split.json"] = b"<html>"
    with pytest.raises(UserError, match="cannot be read as JSON"):
        prepare(dtd)
    assert found(tmp_path / "data") == []


def test_prepare_split_only(dtd, tmp_path):
    prepare(dtd, split_only=True)
    assert found(tmp_path / "data") == ["dtd/split_zhou_DescribableTextures.json"]
    assert dtd.status() == "no images"


def test_mirror_is_used_on_demand_only(dtd, server, tmp_path):
    server.files["/mirror.zip"] = archive_of(
        tmp_path / "there" / "dtd", "any/name/DTD", tmp_path / "m.zip"
    ).read_bytes()
    prepare(dtd, mirror=True)
    assert dtd.status() == "found"
    assert [path for path, _ in server.log] == ["/split.json", "/mirror.zip"]


def test_archive_of_another_layout(dtd, server, tmp_path):
    server.files["/mirror.zip"] = zip_with(tmp_path / "m.zip", ("train/banded/1.jpg", "x")).read_bytes()
    with pytest.raises(UserError, match="holds no images: its layout is not the known one"):
        prepare(dtd, mirror=True)
    assert not (tmp_path / "data" / "dtd" / "images").exists()


def test_archives_inside_an_archive(tmp_path, server):
    home = trees.write(tmp_path / "there", "caltech101", "x") / "101_ObjectCategories"
    inner = archive_of(home, "101_ObjectCategories", tmp_path / "101_ObjectCategories.tar.gz")
    outer = zip_with(tmp_path / "o.zip", ("caltech-101/101_ObjectCategories.tar.gz", inner.read_bytes()))
    server.files["/caltech-101.zip"] = outer.read_bytes()
    server.files["/split"] = (home.parent / "split_zhou_Caltech101.json").read_bytes()
    source = {"archives": [{"url": f"{server.url}/caltech-101.zip"}], "split": f"{server.url}/split"}
    entry = entry_of(tmp_path / "data", "caltech101", source, split_sha256=None)
    prepare(entry)
    assert entry.images() == tmp_path / "data" / "caltech-101" / "101_ObjectCategories"


def test_sketch_is_renamed_and_fgvc_taken_apart(tmp_path, server):
    home = trees.write_shift(tmp_path / "there", "imagenet_sketch", "x")
    server.files["/s.zip"] = archive_of(home / "images", "sketch", tmp_path / "s.zip").read_bytes()
    fgvc = trees.write_fgvc(tmp_path / "there", "y")
    server.files["/f.tar.gz"] = archive_of(
        fgvc, "fgvc-aircraft-2013b/data", tmp_path / "f.tar.gz"
    ).read_bytes()
    for name, url, images in (("imagenet_sketch", "s.zip", "imagenet-sketch/images"),
                              ("fgvc_aircraft", "f.tar.gz", "fgvc_aircraft/images")):  # fmt: skip
        entry = entry_of(tmp_path / "data", name, {"archives": [{"url": f"{server.url}/{url}"}]})
        prepare(entry)
        assert entry.images() == tmp_path / "data" / images
        assert entry.status() == "found"
    assert (tmp_path / "data" / "fgvc_aircraft" / "variants.txt").is_file()


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("stanford_cars", ("7545", "cars_train/00001.jpg", "--mirror")),
        ("sun397", ("8ca2778205c41d23104230ba66911c7a", "--mirror")),
        ("ucf101", ("10Jqome3vtUA2keJkNanAiFpgbyC9Hc2O", "--mirror")),
        ("imagenet", ("ILSVRC2012_img_val.tar", "image-net.org")),
    ],
)
def test_sources_that_are_gone_are_explained(tmp_path, server, name, texts):
    entry = catalogue(tmp_path)[name]
    if entry.split_file:
        server.files["/split"] = json.dumps(trees.split_rows(name)).encode()
        entry = entry_of(tmp_path, name, {"split": f"{server.url}/split"}, split_sha256=None)
    with pytest.raises(ManualStepError) as error:
        prepare(entry)
    for text in (*texts, str(tmp_path / entry.home.folders[0])):
        assert text in str(error.value)


def test_every_data_set_has_a_source(tmp_path):
    entries = catalogue(tmp_path)
    assert sorted(entries) == sorted(trees.NAMES)
    ways = {name: automated(entry) for name, entry in entries.items()}
    assert sorted(name for name, way in ways.items() if way != "automatic") == [
        "imagenet", "stanford_cars", "sun397", "ucf101"]  # fmt: skip
    for entry in entries.values():
        assert entry.source["licence"]
        assert entry.source["take"]
        assert entry.source.get("archives") or entry.source["manual"]
        assert bool(entry.split_file) == ("split" in entry.source)


def test_imagenet_archives_of_the_user_are_unpacked(tmp_path, monkeypatch):
    imagenet = pytest.importorskip("torchvision.datasets.imagenet")
    home = tmp_path / "imagenet"
    home.mkdir()
    for name in IMAGENET_ARCHIVES[:2]:
        (home / name).write_bytes(b"")
    monkeypatch.setattr(imagenet, "parse_devkit_archive", lambda root: None)

    def parse(root, folder, fail=True):
        trees.put(home / folder / "n01440764" / "a.JPEG")
        if fail:
            raise RuntimeError("The archive is corrupted.")

    monkeypatch.setattr(imagenet, "parse_val_archive", parse)
    with pytest.raises(
        UserError, match=r"ILSVRC2012_img_val.tar could not be unpacked: The archive is corrupted"
    ):
        prepare(catalogue(tmp_path)["imagenet"])
    assert found(home / "images") == []
    monkeypatch.setattr(imagenet, "parse_val_archive", lambda root, folder: parse(root, folder, fail=False))
    prepare(catalogue(tmp_path)["imagenet"])
    assert found(home / "images") == ["val/n01440764/a.JPEG"]
    assert catalogue(tmp_path)["imagenet"].status() == "found"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_root_that_cannot_be_written(dtd, tmp_path):
    (tmp_path / "data").mkdir(mode=0o555)
    with pytest.raises(UserError, match=r"cannot be written: Permission denied. Choose a folder"):
        prepare(dtd)


def test_root_that_is_a_file(dtd, tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(UserError, match=r"cannot be written: .*Choose a folder that can with --root"):
        prepare(dtd)
