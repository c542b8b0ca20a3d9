"""Locks between processes, one file each; who waits says for what and for whom, and no file is left behind.

The file is locked (flock), and its holder removes it before letting go. So whoever gets the lock looks whether the
path still leads to the file that it locked, and tries again where it does not: of the holders of one path only the
present one ever removes the file, hence there are never two. A process that dies lets go; its file is taken over by
the next. Locks of several paths are separate: processes that take them in the order in which their work depends on
each other cannot wait in a circle.

On NFS the server keeps the locks, for all machines. A file system without locks is said to be one, and work that
two processes share is then done by both.
"""

import contextlib
import errno
import fcntl
import logging
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)

PAUSE = 0.05
"""Seconds between two tries."""

SILENT, REPEATED = 5.0, 60.0
"""Seconds after which a wait is told first, and from then on."""

NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
"""What flock answers on a file system without locks."""

_without_locks: set[Path] = set()
"""Folders that have been named as such."""


@contextlib.contextmanager
def hold(path: Path, what: str) -> Iterator[None]:
    """Hold a lock, after whoever holds it now.

    Args:
        path: the lock's file; its folder is made when needed. Its mode follows the umask.
        what: what is locked, in plain words, for those who wait.

    Raises:
        OSError: the file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _wait(path, what)
    try:
        yield
    finally:
        _release(path, descriptor)


def is_held(path: Path) -> bool:
    """Whether some process holds the lock; nothing is written."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def remove_left_over(path: Path) -> None:
    """Remove the file of a lock that nobody holds; earlier versions, and processes that were killed, left theirs."""
    if not path.is_file():
        return
    with contextlib.suppress(OSError):
        descriptor = _try(path)
        if descriptor is not None:
            _release(path, descriptor)


def _wait(path: Path, what: str) -> int:
    started, told = time.monotonic(), 0.0
    while (descriptor := _try(path)) is None:
        waited = time.monotonic() - started
        if waited >= (told + REPEATED if told else SILENT):
            told = waited
            log.info("waiting for %s, in the hands of %s, for %.0f s now", what, _holder(path), waited)
        time.sleep(PAUSE)
    return descriptor


def _try(path: Path) -> int | None:
    """The locked file, or None where another one holds it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:  # made by someone whose umask keeps others from writing: reading is enough for a lock
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path)) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _leads_to(path, descriptor):
            _sign(descriptor)
            return descriptor
    except OSError as error:
        if error.errno in NO_LOCKS:
            _tell_without_locks(path.parent)
            return descriptor
        if not isinstance(error, BlockingIOError) and error.errno != errno.ESTALE:
            os.close(descriptor)
            raise
    os.close(descriptor)
    return None


def _release(path: Path, descriptor: int) -> None:
    with contextlib.suppress(OSError):
        if _leads_to(path, descriptor):
            os.unlink(path)
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # for a child process too, which has the file open
    os.close(descriptor)


def _leads_to(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _sign(descriptor: int) -> None:
    """Write who holds it; a full disk or a file for reading only keeps nobody from working."""
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()}".encode(), 0)


def _holder(path: Path) -> str:
    with contextlib.suppress(OSError), path.open(errors="replace") as file:
        return " ".join(file.read(200).split()) or "another process"
    return "another process"


def _tell_without_locks(folder: Path) -> None:
    if folder not in _without_locks:
        _without_locks.add(folder)
        log.warning("%s: the file system has no locks; two processes may do the same work there", folder)
