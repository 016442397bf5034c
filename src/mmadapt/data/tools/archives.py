"""Unpacks archives into a folder of its own: nothing outside it is written, nothing half-unpacked stays."""

from __future__ import annotations

import shutil
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

from mmadapt.errors import UserError
from mmadapt.progress import ProgressBar, track

_MB = 1 << 20


class ArchiveError(UserError):
    """An archive that is damaged or unsafe."""


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip or tar archive into a new folder, and archives inside it that hold the images.

    Args:
        archive: The file; its content says what it is, not its name.
        folder: Where to; it must not exist, and does not if anything fails.

    Raises:
        ArchiveError: If the archive is damaged, or a member would be written outside of the folder, is a link
            that leads out of it, or is no file at all.
        UserError: If there is no space or no permission.
    """
    try:
        folder.mkdir(parents=True)
        _unpack(archive, folder)
        for inner in sorted(folder.rglob("*.tar.gz")):  # Caltech's zip holds tar files
            _unpack(inner, inner.parent)
            inner.unlink()
    except ArchiveError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise ArchiveError(f"{archive} is damaged: {error}. Delete it and run the command again.") from error
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise UserError(
            f"{archive} cannot be unpacked into {folder.parent}: {error.strerror or error}."
        ) from error
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _unpack(archive: Path, folder: Path) -> None:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            _unpack_zip(archive, file, folder)
    elif tarfile.is_tarfile(archive):
        with open(archive, "rb") as raw, tarfile.open(fileobj=raw) as file:
            _unpack_tar(archive, raw, file, folder)
    else:
        raise ArchiveError(
            f"{archive} is neither a zip nor a tar archive, or it is damaged. Delete it and run the "
            "command again."
        )


def _unpack_zip(archive: Path, file: zipfile.ZipFile, folder: Path) -> None:
    members = file.infolist()
    for member in members:
        mode = member.external_attr >> 16
        if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _unsafe(archive, member.filename, "is a link or device")
        _check_name(archive, member.filename)
    _check_space(archive, sum(member.file_size for member in members), folder)
    for member in track(members, f"unpacking {archive.name}", len(members)):
        file.extract(member, folder)  # verifies each member's CRC


def _unpack_tar(archive: Path, raw: BinaryIO, file: tarfile.TarFile, folder: Path) -> None:
    if not hasattr(tarfile, "data_filter"):
        raise UserError("Unpacking tar archives safely needs Python 3.11.4 or newer.")
    bar = ProgressBar(f"unpacking {archive.name} (MB)", archive.stat().st_size // _MB)
    try:
        for member in file:
            _check_name(archive, member.name)
            file.extract(member, folder, filter="data")
            bar.advance(raw.tell() // _MB - bar.done)
    except tarfile.FilterError as error:
        raise _unsafe(archive, error.tarinfo.name, str(error)) from error
    finally:
        bar.close()


def _check_name(archive: Path, name: str) -> None:
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    if posix.is_absolute() or windows.drive or windows.root or ".." in (*posix.parts, *windows.parts):
        raise _unsafe(archive, name, "leads out of the folder")


def _unsafe(archive: Path, name: str, why: str) -> ArchiveError:
    return ArchiveError(
        f"{archive} is unsafe and was not unpacked: its member {name!r} {why}. Delete the file."
    )


def _check_space(archive: Path, size: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(f"{archive} unpacks to {size:,} bytes, {folder.parent} has {free:,} free.")
