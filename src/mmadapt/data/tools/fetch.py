"""``python -m mmadapt.data prepare``: fetches what can be fetched, explains what cannot."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mmadapt.data.published.split_json import read_split_file
from mmadapt.data.tools.archives import unpack
from mmadapt.data.tools.catalogue import Entry
from mmadapt.data.tools.download import DownloadError, download
from mmadapt.errors import UserError

_WORK = ".download"
IMAGENET_ARCHIVES = ("ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_img_val.tar", "ILSVRC2012_img_train.tar")


class ManualStepError(UserError):
    """A source that no program may or can fetch."""


def prepare(
    entry: Entry,
    *,
    mirror: bool = False,
    split_only: bool = False,
    keep: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Bring a data set into its folder, as far as it is not there; may be called again at any time.

    Args:
        entry: The data set.
        mirror: Fetch images from a third party's copy.
        split_only: Fetch the split file only.
        keep: Keep the downloaded archives.
        say: Prints one line of what happens.

    Raises:
        ManualStepError: If the images have to be fetched by hand.
        UserError: If a download or the disk fails; nothing half-written is left.
    """
    target = _target(entry)
    _check_writable(target)
    if entry.split_file and entry.home.find_file(entry.split_file) is None:
        _fetch_split(entry, target, say)
    if split_only:
        return
    if entry.name == "imagenet" and _unpack_imagenet(target, say):
        return
    take: Mapping[str, str] = entry.source.get("take", {})
    if entry.images() is not None and not entry.lacks():
        say(f"{entry.name}: images are in {entry.images()}. {_next(entry)}")
        return
    urls = _urls(entry, mirror)
    if not urls:
        raise ManualStepError(_manual(entry, target))
    for url, md5 in urls:
        archive = target / _WORK / url.rsplit("/", 1)[-1]
        say(f"{entry.name}: fetching {url}")
        try:
            download(url, archive, md5=md5)
        except DownloadError as error:
            hint = f" See {url.split('/resolve/')[0]} for what the mirror holds." if mirror else ""
            raise DownloadError(f"{error}{hint}") from error
        _place(archive, target, take, say)
        if not keep:
            archive.unlink()
    if not keep:
        shutil.rmtree(target / _WORK, ignore_errors=True)
    if entry.images() is None:
        raise UserError(f"{entry.name}: the archive did not hold the expected images; look into {target}.")
    say(f"{entry.name}: done, in {target}. {_next(entry)}")


def _next(entry: Entry) -> str:
    return f"python -m mmadapt.data check {entry.name} compares every file."


def _target(entry: Entry) -> Path:
    folders = entry.home.existing() or entry.home.candidates()
    return next((folder for folder in folders if folder != entry.home.root), folders[0])


def _check_writable(target: Path) -> None:
    probe = target / _WORK
    try:
        probe.mkdir(parents=True, exist_ok=True)
        (probe / ".probe").write_bytes(b"")
        (probe / ".probe").unlink()
        if not any(probe.iterdir()):
            probe.rmdir()
    except OSError as error:
        raise UserError(
            f"{target} cannot be written: {error.strerror}. Choose a folder that can with --root or "
            "MMADAPT_DATA."
        ) from error


def _fetch_split(entry: Entry, target: Path, say: Callable[[str], None]) -> None:
    url, name = entry.source["split"], str(entry.split_file)
    say(f"{entry.name}: fetching {url}")
    new = target / f".{name}.new"
    try:
        download(url, new)
        split = read_split_file(new)
        if not split.is_published(entry.facts.get("split_sha256")):
            raise DownloadError(f"{url} is not the published split file: its SHA-256 is {split.hashes[0]}.")
        new.replace(target / name)
    finally:
        new.unlink(missing_ok=True)


def _urls(entry: Entry, mirror: bool) -> Sequence[tuple[str, str | None]]:
    if mirror and entry.source.get("mirror"):
        return [(entry.source["mirror"], None)]
    return [(archive["url"], archive.get("md5")) for archive in entry.source.get("archives", ())]


def _place(archive: Path, target: Path, take: Mapping[str, str], say: Callable[[str], None]) -> None:
    """Unpack an archive aside, then move what is wanted to its place, each by one rename."""
    unpacked = archive.with_name(f"{archive.name}.unpacked")
    shutil.rmtree(unpacked, ignore_errors=True)
    say(f"unpacking {archive.name}")
    try:
        unpack(archive, unpacked)
        moves = {
            here: found for name, here in reversed(list(take.items())) if (found := _search(unpacked, name))
        }
        if lost := sorted(set(take.values()) - set(moves) - {path.name for path in target.iterdir()}):
            raise UserError(
                f"{archive} holds no {', '.join(lost)}: its layout is not the known one. "
                f"It was kept; unpack it by hand into {target}."
            )
        for here, found in moves.items():
            if not (target / here).exists():
                found.replace(target / here)
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def _search(folder: Path, name: str) -> Path | None:
    """Return the file or folder of that name nearest to the top."""
    level = [folder]
    while level:
        entries = sorted(path for parent in level for path in parent.iterdir() if path.name != "__MACOSX")
        found = next((path for path in entries if path.name == name), None)
        if found is not None:
            return found
        level = [path for path in entries if path.is_dir()]
    return None


def _manual(entry: Entry, target: Path) -> str:
    mirror = (
        f"\nOr fetch a third party's copy: python -m mmadapt.data prepare {entry.name} --mirror"
        if entry.source.get("mirror")
        else ""
    )
    how = entry.source.get("manual", entry.source["home"])
    return f"{entry.name} has to be fetched by hand. {how}\nFolder: {target}{mirror}"


def _unpack_imagenet(target: Path, say: Callable[[str], None]) -> bool:
    """Unpack archives that the user fetched, with torchvision, which verifies them; return whether it did."""
    devkit, *parts = [target / name for name in IMAGENET_ARCHIVES]
    present = [path for path in parts if path.is_file()]
    done = False
    for archive in present if devkit.is_file() else ():
        from torchvision.datasets import imagenet

        part = "val" if "_val" in archive.name else "train"
        final, partial = target / "images" / part, Path("images") / f".{part}.partial"
        if final.exists():
            continue
        say(f"imagenet: unpacking {archive.name}")
        shutil.rmtree(target / partial, ignore_errors=True)
        (target / "images").mkdir(exist_ok=True)
        try:
            imagenet.parse_devkit_archive(str(target))
            parse = imagenet.parse_val_archive if part == "val" else imagenet.parse_train_archive
            parse(str(target), folder=str(partial))
            (target / partial).replace(final)
        except (RuntimeError, OSError) as error:
            raise UserError(f"{archive} could not be unpacked: {error}") from error
        finally:
            shutil.rmtree(target / partial, ignore_errors=True)
        done = True
    return done
