"""``python -m mmadapt.data prepare``: fetches what can be fetched, explains what cannot."""

from __future__ import annotations

import shutil
from pathlib import Path

from mmadapt.data.published.locate import read_split_file
from mmadapt.data.tools.catalogue import Entry
from mmadapt.data.tools.download import DownloadError, download, unpacked
from mmadapt.errors import UserError

_WORK = ".download"
IMAGENET_ARCHIVES = ("ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_img_val.tar", "ILSVRC2012_img_train.tar")


class ManualStepError(UserError):
    """A source that no program may or can fetch."""


def prepare(entry: Entry, *, mirror: bool = False, split_only: bool = False, keep: bool = False) -> None:
    """Bring a data set into its folder, as far as it is not there; nothing half-written is left.

    It may be called again at any time.

    Args:
        entry: The data set.
        mirror: Fetch images from a third party's copy.
        split_only: Fetch the split file only.
        keep: Keep the downloaded archives.
    """
    folders = entry.home.existing() or entry.home.candidates()
    target = next((folder for folder in folders if folder != entry.home.root), folders[0])
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{target} cannot be written: {error.strerror}. Choose a folder that can with --root or "
            "MMADAPT_DATA."
        ) from error
    if entry.split_file and entry.home.find_file(entry.split_file) is None:
        _fetch_split(entry, target, entry.split_file)
    if split_only or (entry.name == "imagenet" and _unpack_imagenet(target)):
        return
    then = f"python -m mmadapt.data check {entry.name} compares every file."
    if entry.images() is not None and not entry.lacks():
        print(f"{entry.name}: images are in {entry.images()}. {then}")
        return
    archives = entry.source.get("archives", ())
    if mirror and entry.source.get("mirror"):
        archives = [{"url": entry.source["mirror"]}]
    if not archives:
        how = entry.source.get("manual", entry.source["home"])
        text = f"{entry.name} has to be fetched by hand. {how}\nFolder: {target}"
        if entry.source.get("mirror"):
            text += f"\nOr fetch a third party's copy: python -m mmadapt.data prepare {entry.name} --mirror"
        raise ManualStepError(text)
    for url, md5 in ((archive["url"], archive.get("md5")) for archive in archives):
        file = target / _WORK / url.rsplit("/", 1)[-1]
        print(f"{entry.name}: fetching {url}")
        try:
            download(url, file, md5)
        except DownloadError as error:
            hint = f" See {url.split('/resolve/')[0]} for what the mirror holds." if mirror else ""
            raise DownloadError(f"{error}{hint}") from error
        _place(file, target, entry.source.get("take", {}))
        if not keep:
            file.unlink()
    if not keep:
        shutil.rmtree(target / _WORK, ignore_errors=True)
    if entry.images() is None:
        raise UserError(f"{entry.name}: the archive did not hold the expected images; look into {target}.")
    print(f"{entry.name}: done, in {target}. {then}")


def _fetch_split(entry: Entry, target: Path, name: str) -> None:
    url, new = entry.source["split"], target / f".{name}.new"
    print(f"{entry.name}: fetching {url}")
    try:
        split = read_split_file(download(url, new))
        if not split.is_published(entry.facts.get("split_sha256")):
            raise DownloadError(f"{url} is not the published split file: its SHA-256 is {split.hashes[0]}.")
        new.replace(target / name)
    finally:
        new.unlink(missing_ok=True)


def _place(archive: Path, target: Path, take: dict[str, str]) -> None:
    """Unpack an archive aside, then move what is wanted to its place, each by one rename."""
    print(f"unpacking {archive.name}")
    with unpacked(archive) as folder:
        moves = {here: found for name, here in reversed(take.items()) if (found := _search(folder, name))}
        if lost := sorted(set(take.values()) - set(moves) - {path.name for path in target.iterdir()}):
            raise UserError(
                f"{archive} holds no {', '.join(lost)}: its layout is not the known one. "
                f"It was kept; unpack it by hand into {target}."
            )
        for here, found in moves.items():
            if not (target / here).exists():
                found.replace(target / here)


def _search(folder: Path, name: str) -> Path | None:
    """Return the file or folder of that name nearest to the top."""
    found = [path for path in folder.rglob(name) if "__MACOSX" not in path.relative_to(folder).parts]
    return min(found, key=lambda path: (len(path.parts), path), default=None)


def _unpack_imagenet(target: Path) -> bool:
    """Unpack archives that the user fetched, with torchvision, which verifies them; return whether it did."""
    devkit, *archives = [target / name for name in IMAGENET_ARCHIVES]
    done = False
    for archive, part in zip(archives, ("val", "train"), strict=True):
        final, partial = target / "images" / part, Path("images") / f".{part}.partial"
        if not devkit.is_file() or not archive.is_file() or final.exists():
            continue
        from torchvision.datasets import imagenet

        print(f"imagenet: unpacking {archive.name}")
        shutil.rmtree(target / partial, ignore_errors=True)
        final.parent.mkdir(exist_ok=True)
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
