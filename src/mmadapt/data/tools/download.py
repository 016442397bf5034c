"""Downloads that can be resumed, are verified, and appear under their name only when they are whole."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from mmadapt.errors import UserError
from mmadapt.progress import ProgressBar

_CHUNK = 1 << 20
_TIMEOUT_SECONDS = 60
_AGENT = "mmadapt (few-shot benchmark; python-urllib)"


class DownloadError(UserError):
    """A file that could not be fetched whole and unchanged."""


def download(url: str, target: Path, *, md5: str | None = None, sha256: str | None = None) -> Path:
    """Fetch a file; a target that is already there and fits its checksum is kept.

    Bytes are gathered in ``<target>.part``. A later call goes on where it stopped if the server still has the
    same file, by its ETag or date.

    Args:
        url: Where from.
        target: Where to.
        md5: Expected MD5.
        sha256: Expected SHA-256 or its first digits.

    Raises:
        DownloadError: If the server fails, bytes are missing, or a checksum differs; nothing but the
            resumable part is left then, and not even that where the checksum differs.
        UserError: If the folder cannot be written.
    """
    if target.is_file() and not _mismatch(target, md5, sha256):
        return target
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "ab"):
            pass
    except OSError as error:
        raise UserError(
            f"{target.parent} cannot be written: {error.strerror}. Choose another folder with --root."
        ) from error
    try:
        expected = _fetch(url, part)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", "") or error
        raise DownloadError(
            f"{url} could not be fetched: {reason}. Run the command again to go on from "
            f"{part.stat().st_size:,} bytes."
        ) from error
    except OSError as error:
        raise UserError(f"{part} cannot be written: {error.strerror}.") from error
    size = part.stat().st_size
    if expected is not None and size < expected:
        raise DownloadError(
            f"{url} broke off after {size:,} of {expected:,} bytes. Run the command again to go on."
        )
    wrong = _mismatch(part, md5, sha256)
    if wrong or (expected is not None and size > expected):
        part.unlink()
        _stamp(part).unlink(missing_ok=True)
        wrong = wrong or f"{size:,} instead of {expected:,} bytes"
        raise DownloadError(
            f"{url} is not the published file ({wrong}) and was deleted. Try again later, or with --mirror."
        )
    part.replace(target)
    _stamp(part).unlink(missing_ok=True)
    return target


def _fetch(url: str, part: Path) -> int | None:
    """Append what is missing to the part; return the size that the whole file has, if the server says so."""
    start, stamp = part.stat().st_size, _stamp(part)
    known = stamp.read_text(encoding="utf-8") if stamp.is_file() else ""
    request = urllib.request.Request(url, headers={"User-Agent": _AGENT})
    if start and known:
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", known)
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to be sent
            size = (error.headers.get("Content-Range") or "").rpartition("/")[2]
            return int(size) if size.isdigit() else None
        raise
    with response:
        resumed = getattr(response, "status", 200) == 206
        left = response.headers.get("Content-Length")
        total = int(left) + (start if resumed else 0) if left else None
        name = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        if name and not name.startswith("W/"):
            stamp.write_text(name, encoding="utf-8")
        else:
            stamp.unlink(missing_ok=True)
        _check_space(part, int(left or 0))
        with open(part, "ab" if resumed else "wb") as stream:
            _copy(response, stream, f"downloading {part.name.removesuffix('.part')} (MB)", total)
    return total


def _copy(response: Any, stream: Any, label: str, total: int | None) -> None:
    bar = ProgressBar(label, (total or 0) // _CHUNK)
    bar.done = stream.tell() // _CHUNK
    try:
        with contextlib.suppress(http.client.IncompleteRead):
            while chunk := response.read(_CHUNK):
                stream.write(chunk)
                bar.advance()
    finally:
        bar.close()


def _check_space(part: Path, size: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if size > free:
        raise UserError(
            f"{part.parent} has {free:,} bytes free, the download needs {size:,}. "
            "Choose another folder with --root."
        )


def _mismatch(file: Path, md5: str | None, sha256: str | None) -> str:
    for name, expected in (("md5", md5), ("sha256", sha256)):
        if expected:
            with open(file, "rb") as stream:
                found = hashlib.file_digest(stream, name).hexdigest()
            if not found.startswith(expected):
                return f"{name} {found} instead of {expected}"
    return ""


def _stamp(part: Path) -> Path:
    return part.with_name(f"{part.name}.tag")
