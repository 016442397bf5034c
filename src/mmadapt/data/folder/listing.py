"""Own images as a tree of class folders or a CSV lists them: which files, of which class and split."""

from __future__ import annotations

import csv
import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from mmadapt.data.splits import Split
from mmadapt.errors import DataNotFoundError, UserError, did_you_mean, some

log = logging.getLogger(__name__)

SPLITS: dict[str, Split] = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
"""Accepted spellings, upper or lower case."""

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff",
            ".ppm", ".pgm", ".pbm", ".jp2", ".avif")  # fmt: skip
"""Files with these suffixes are images, upper or lower case."""

_CLUTTER = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found")


@dataclass(frozen=True, order=True)
class Listed:
    """One image; sorting puts it into its fixed place.

    Attributes:
        label: Name of the class folder or value of the CSV, in Unicode's composed form.
        key: Path within the class, composed; the deterministic split ranks by it.
        path: Path relative to the folder or to the CSV's folder, or absolute, as the file system spells it.
        split: Where the tree or the CSV puts the image; None if it does not say.
    """

    label: str
    key: str
    path: str
    split: Split | None = None


def composed(text: str) -> str:
    """Return Unicode's composed form: macOS stores ``é`` as two characters, others as one."""
    return unicodedata.normalize("NFC", text)


def list_csv(file: Path) -> list[Listed]:
    """List the rows of a CSV with the columns path and label, and split if wanted.

    Paths are relative to the CSV's folder or absolute.
    """
    try:
        with open(file, encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, restval="")
            columns = [column.strip().lower() for column in reader.fieldnames or ()]
            reader.fieldnames = columns
            rows = [(reader.line_num, {key: row[key].strip() for key in columns}) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file} cannot be read as a CSV in UTF-8: {error}.") from error
    if absent := [column for column in ("path", "label") if column not in columns]:
        raise UserError(
            f"{file} has no column {' and '.join(absent)}; its first line holds "
            f"{', '.join(columns) or 'nothing'}. "
            "Start the file with the line path,label or path,label,split."
        )
    if not rows:
        raise UserError(f"{file} lists no images: it has no line after its first.")
    listed: list[Listed] = []
    for line, row in rows:
        if empty := [column for column in ("path", "label") if not row[column]]:
            raise UserError(f"{file}, line {line}: {empty[0]} is empty.")
        word = composed(row.get("split", "")).casefold()
        if "split" in columns and word not in SPLITS:
            raise UserError(
                f"{file}, line {line}: split {word!r} is unknown"
                f"{did_you_mean(word, SPLITS)}. Use train, val or test."
            )
        path = PurePath(os.path.normpath(row["path"]))
        if path.is_absolute() and path.is_relative_to(file.parent):
            path = path.relative_to(file.parent)
        key = path.as_posix()
        listed.append(Listed(composed(row["label"]), composed(key), key, SPLITS.get(word)))
    if twice := [path for path, count in Counter(image.path for image in listed).items() if count > 1]:
        raise UserError(f"{file} lists {len(twice)} paths more than once: {some(twice)}. Keep one line each.")
    if gone := [image.path for image in listed if not (file.parent / image.path).exists()]:
        raise DataNotFoundError(
            f"{len(gone)} of {len(listed)} images listed in {file} do not exist: {some(gone)}. "
            f"Paths are relative to {file.parent} or absolute."
        )
    return sorted(listed)


def list_tree(root: Path) -> list[Listed]:
    """List a tree of class folders, or of train/val/test folders that hold class folders.

    A folder named like a split is one only if it has sub-folders; else it is a class of that name.
    Images may lie at any depth in their class folder. Links are followed.
    """
    listed: list[Listed] = []
    labels: set[str] = set()
    others: Counter[str] = Counter()
    for split, parent in _parents(root):
        classes, files = _entries(parent)
        if classes and (stray := [path.name for path in files if _is_image(path)]):
            text = "%d images directly in %s have no class and are left out: %s"
            log.warning(text, len(stray), parent, some(stray))
        for folder in classes:
            label = composed(folder.name)
            labels.add(label)
            for path in _files(folder, {_inode(root), _inode(parent)}):
                if _is_image(path):
                    key = composed(path.relative_to(folder).as_posix())
                    listed.append(Listed(label, key, path.relative_to(root).as_posix(), split))
                else:
                    others[path.suffix.lower() or path.name] += 1
    found = some(f"{count} {suffix}" for suffix, count in others.most_common())
    found = f"; found instead: {found}" if found else ""
    if not listed:
        loose = any(map(_is_image, _entries(root)[1]))
        hint = " Images directly in the folder have no class." if loose else ""
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


def _parents(root: Path) -> Sequence[tuple[Split | None, Path]]:
    """Return the folders whose sub-folders are classes: the root, or its train, val and test folders."""
    folders = _entries(root)[0]
    named = {folder: SPLITS[word] for folder in folders if (word := folder.name.casefold()) in SPLITS}
    splits = {folder: split for folder, split in named.items() if _entries(folder)[0]}
    if not splits:
        if folders and len(named) == len(folders):
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
        wrong = f"also other folders with images: {some(mixed)}" if mixed else ""
        raise UserError(
            f"{root} has split folders ({names}), but {wrong or 'no train folder with class folders'}. "
            f"If {names} are classes, rename them; otherwise put every class folder into train, val or test."
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
