"""Locks that the operating system frees when their holder ends, however it ends.

They are ``flock`` locks on a small file that says who holds them. On NFS, Linux turns them into locks of the
server, which hold between machines unless the share is mounted with ``nolock`` or ``local_lock=flock``. Where a
file system has no locks at all, a warning is given and nothing is locked.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from mmadapt.errors import UserError
from mmadapt.progress import say

log = logging.getLogger(__name__)

LOCK_FILE = ".lock"
_POLL_SECONDS = 0.5
_WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@dataclass(frozen=True)
class Holder:
    """Who took a lock, and when."""

    pid: int
    host: str
    since: str

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host} since {self.since}" if self.pid else "another process"


class BusyError(UserError):
    """Another process is computing this run."""

    def __init__(self, run_dir: Path, holder: Holder) -> None:
        super().__init__(f"{run_dir} is being computed by {holder}.")
        self.holder = holder


class FileLock:
    """A held lock; `release` frees it, and so does the end of the process.

    Attributes:
        handle: The open file. A child process that inherits it holds the lock too, until it ends.
        left_by: Who held the lock last without freeing it, if anyone.
    """

    def __init__(self, path: Path, handle: int, left_by: Holder | None) -> None:
        self.path, self.handle, self.left_by = path, handle, left_by

    def sign(self, pid: int) -> None:
        """Write into the file who holds it."""
        since = datetime.now(UTC).isoformat(timespec="seconds")
        text = json.dumps(asdict(Holder(pid, socket.gethostname(), since)))
        os.ftruncate(self.handle, 0)
        os.pwrite(self.handle, text.encode(), 0)

    def release(self, *, remove: bool = False) -> None:
        """Free the lock; with ``remove`` the file goes first, so that nobody can lock a file that is gone."""
        if remove:
            self.path.unlink(missing_ok=True)
        fcntl.flock(self.handle, fcntl.LOCK_UN)  # explicit: a forked worker may still have the file open
        os.close(self.handle)


def try_lock(path: Path) -> FileLock | None:
    """Take the lock of a file, which is made if need be; None if another process holds it."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:  # the folder was taken back just now
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                os.close(handle)
                raise
            log.warning("The file system of %s has no locks: start no two sweeps on one tag.", path.parent)
        if _is_still(path, handle):
            lock = FileLock(path, handle, _read(handle))
            lock.sign(os.getpid())
            return lock
        os.close(handle)  # its last holder removed the file between opening and locking


def holder(path: Path) -> Holder | None:
    """Return who holds the lock of a file at this moment; None if nobody does. Writes nothing."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(handle) or Holder(0, "", "")
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
    finally:
        os.close(handle)
    return None


@contextmanager
def run_lock(run_dir: Path, *, wait: bool) -> Iterator[None]:
    """Hold the lock of a run's folder; the file is gone afterwards.

    Args:
        run_dir: Folder of the run.
        wait: Say who is computing the run and wait, or raise.

    Raises:
        BusyError: If another process holds the lock and ``wait`` is False.
    """
    path = run_dir / LOCK_FILE
    told = False
    while (lock := try_lock(path)) is None:
        busy = BusyError(run_dir, holder(path) or Holder(0, "", ""))
        if not wait:
            raise busy
        if not told:
            say(f"{busy} Waiting for it (Ctrl-C stops waiting).", "stderr")
            told = True
        time.sleep(_POLL_SECONDS)
    if lock.left_by is not None:
        log.warning("%s was left unfinished by %s; it is taken up again.", run_dir, lock.left_by)
    try:
        yield
    finally:
        lock.release(remove=True)


def _is_still(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def _read(handle: int) -> Holder | None:
    try:
        return Holder(**json.loads(os.pread(handle, 4096, 0)))
    except (ValueError, TypeError):  # empty, or half-written by a process that was killed
        return None
