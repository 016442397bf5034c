"""Downloads that can be resumed and are verified; archives whose content never leaves its folder."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from mmadapt.errors import UserError
from mmadapt.progress import ProgressBar

_CHUNK = 1 << 20
_TIMEOUT_SECONDS = 60
_AGENT = "mmadapt (few-shot benchmark; python-urllib)"


class DownloadError(UserError):
    """A file that could not be fetched whole and unchanged."""


class ArchiveError(UserError):
    """An archive that is damaged or unsafe."""


def download(url: str, target: Path, md5: str | None = None) -> Path:
    """Fetch a file; a target that is already there and fits its checksum is kept.

    Bytes are gathered in ``<target>.part``. With a checksum to judge the whole by, a later call goes on where
    this one broke off.

    Raises:
        DownloadError: If the server fails, bytes are missing, or the checksum differs; nothing but the part is
            left then, and not even that where the checksum differs.
    """
    if target.is_file() and md5 in (None, _md5(target)):
        return target
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        expected = _fetch(url, part, resume=md5 is not None)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", "") or error
        raise DownloadError(
            f"{url} could not be fetched: {reason}. Run the command again to go on from "
            f"{part.stat().st_size:,} bytes."
        ) from error
    except OSError as error:
        raise UserError(
            f"{target.parent} cannot be written: {error.strerror}. Choose another folder with --root."
        ) from error
    size = part.stat().st_size
    if expected is not None and size < expected:
        raise DownloadError(
            f"{url} broke off after {size:,} of {expected:,} bytes. Run the command again to go on."
        )
    if md5 not in (None, found := _md5(part)):
        part.unlink()
        raise DownloadError(
            f"{url} is not the published file (md5 {found} instead of {md5}) and was deleted. "
            "Try again later, or with --mirror."
        )
    return part.replace(target)


def _fetch(url: str, part: Path, resume: bool) -> int | None:
    """Append what is missing to the part; return the size that the whole file has, if the server says so."""
    start = part.stat().st_size if resume else 0
    request = urllib.request.Request(url, headers={"User-Agent": _AGENT})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to be sent
            return None
        raise
    with response:
        if getattr(response, "status", 200) != 206:
            start = 0
        left = response.headers.get("Content-Length")
        total = start + int(left) if left else None
        bar = ProgressBar(f"downloading {part.name.removesuffix('.part')} (MB)", (total or 0) // _CHUNK)
        bar.done = start // _CHUNK
        with (
            contextlib.closing(bar),
            contextlib.suppress(http.client.IncompleteRead),
            open(part, "ab" if start else "wb") as stream,
        ):
            while chunk := response.read(_CHUNK):
                stream.write(chunk)
                bar.advance()
    return total


def _md5(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "md5").hexdigest()


@contextlib.contextmanager
def unpacked(archive: Path) -> Iterator[Path]:
    """Give a folder beside a zip or tar archive that holds its content as long as the block lasts.

    The content of the file says what it is, not its name. Tar archives inside it are unpacked, too. Refused
    are a damaged archive and one with a member that leads out of the folder, as a link may, or is no file.
    """
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix=f".{archive.name}.") as name:
        folder = Path(name)
        try:
            _unpack(archive, folder)
            for inner in sorted(folder.rglob("*.tar.gz")):  # Caltech's zip holds tar files
                _unpack(inner, inner.parent)
                inner.unlink()
        except tarfile.FilterError as error:
            raise _unsafe(archive, error.tarinfo.name, str(error)) from error
        except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise ArchiveError(
                f"{archive} is damaged: {error}. Delete it and run the command again."
            ) from error
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"{archive} cannot be unpacked into {archive.parent}: {reason}.") from error
        yield folder


def _unpack(archive: Path, folder: Path) -> None:
    def checked(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
        _check_name(archive, member.name)
        return tarfile.data_filter(member, path)

    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            for name in zipped.namelist():
                _check_name(archive, name)
            zipped.extractall(folder)  # verifies each member's CRC
    elif tarfile.is_tarfile(archive):
        if not hasattr(tarfile, "data_filter"):
            raise UserError("Unpacking tar archives safely needs Python 3.11.4 or newer.")
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter=checked)
    else:
        raise ArchiveError(
            f"{archive} is neither a zip nor a tar archive, or it is damaged. Delete it and run the "
            "command again."
        )


def _check_name(archive: Path, name: str) -> None:
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    if posix.is_absolute() or windows.drive or windows.root or ".." in (*posix.parts, *windows.parts):
        raise _unsafe(archive, name, "leads out of the folder")


def _unsafe(archive: Path, name: str, why: str) -> ArchiveError:
    return ArchiveError(
        f"{archive} is unsafe and was not unpacked: its member {name!r} {why}. Delete the file."
    )
