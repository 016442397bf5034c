"""Class folders of images: which files of a tree are images, of which class and split."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmadapt.data.folder.csv_list import SPLITS, Listed, composed
from mmadapt.data.splits import Split
from mmadapt.errors import UserError, some

log = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff",
            ".ppm", ".pgm", ".pbm", ".jp2", ".avif")  # fmt: skip
"""Files with these suffixes are images, upper or lower case."""

_CLUTTER = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found")


def list_tree(root: Path) -> list[Listed]:
    """List a tree of class folders, or of train/val/test folders that hold class folders.

    A folder named like a split is one only if it has sub-folders; else it is a class of that name.
    Images may lie at any depth in their class folder. Links are followed.

    Raises:
        UserError: If splits and classes are mixed, a class has no image, or there is no image at all.
    """
    folders, loose = _entries(root)
    split_like = {folder: SPLITS[word] for folder in folders if (word := folder.name.casefold()) in SPLITS}
    splits = {folder: split for folder, split in split_like.items() if _entries(folder)[0]}
    listed: list[Listed] = []
    labels: set[str] = set()
    others: Counter[str] = Counter()
    for split, parent in _parents(root, folders, splits):
        inner, stray = _entries(parent)
        stray_images = [path for path in stray if _is_image(path)]
        if inner and stray_images:
            log.warning(
                "%d images directly in %s have no class and are left out: %s",
                len(stray_images),
                parent,
                some(path.name for path in stray_images),
            )
        for folder in inner:
            label = composed(folder.name)
            labels.add(label)
            for path in _files(folder, {_inode(root), _inode(parent)}):
                if _is_image(path):
                    key = composed(path.relative_to(folder).as_posix())
                    listed.append(Listed(label, key, path.relative_to(root).as_posix(), split))
                else:
                    others[path.suffix.lower() or path.name] += 1
    found = (
        f"; found instead: {some(f'{n} {suffix}' for suffix, n in others.most_common())}" if others else ""
    )
    if not listed:
        hint = " Images directly in the folder have no class." if any(map(_is_image, loose)) else ""
        raise UserError(
            f"No images in {root}: looked in its sub-folders for {', '.join(SUFFIXES)}"
            f"{found}.{hint} Set data.root=… to a folder with one sub-folder per class."
        )
    if empty := sorted(labels - {image.label for image in listed}):
        raise UserError(
            f"{len(empty)} class folders in {root} hold no image ({', '.join(SUFFIXES)}): "
            f"{some(empty)}{found}. Remove the folder or add images."
        )
    return sorted(listed)


def _parents(
    root: Path, folders: Sequence[Path], splits: dict[Path, Split]
) -> list[tuple[Split | None, Path]]:
    """Return the folders whose sub-folders are classes: the root, or its train, val and test folders."""
    if not splits:
        if folders and all(folder.name.casefold() in SPLITS for folder in folders):
            raise UserError(
                f"{root} has the folders {some(f.name for f in folders)}, but no class folders in "
                "them. Make one sub-folder per class, as in train/cat/1.jpg."
            )
        return [(None, root)]
    names = some(sorted(folder.name for folder in splits))
    if twice := [split for split, count in Counter(splits.values()).items() if count > 1]:
        raise UserError(f"{root} has several folders for {some(twice)}: {names}. Keep one.")
    rest = [folder for folder in folders if folder not in splits]
    mixed = [folder.name for folder in rest if any(map(_is_image, _files(folder, {_inode(root)})))]
    if mixed or "train" not in splits.values():
        wrong = (
            f"also other folders with images: {some(mixed)}"
            if mixed
            else "no train folder with class folders"
        )
        raise UserError(
            f"{root} has split folders ({names}), but {wrong}. If {names} are classes, rename "
            "them; otherwise put every class folder into train, val or test."
        )
    return [(split, folder) for folder, split in splits.items()]


def _files(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """Yield all files below a folder; a folder that was seen (a link in a circle) is not entered again."""
    inode = _inode(folder)
    if inode in seen:
        return
    seen.add(inode)
    folders, files = _entries(folder)
    yield from files
    for inner in folders:
        yield from _files(inner, seen)


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return sub-folders and files, sorted, without hidden ones and the clutter of file managers."""
    folders: list[Path] = []
    files: list[Path] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name in _CLUTTER:
                    continue
                # isdir is False for a broken or circular link, where DirEntry.is_dir may raise
                is_folder = os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()
                (folders if is_folder else files).append(folder / entry.name)
    except OSError as error:
        raise UserError(f"The folder {folder} cannot be listed: {error.strerror}.") from error
    return sorted(folders, key=_order), sorted(files, key=_order)


def _order(path: Path) -> tuple[str, str]:
    return composed(path.name), path.name


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _inode(folder: Path) -> tuple[int, int]:
    stat = os.stat(folder)
    return stat.st_dev, stat.st_ino
