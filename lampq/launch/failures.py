"""What went wrong, in one line: what a user can do about it where that is known, else where the traceback is."""

import errno
import os
import shutil
import traceback
from collections.abc import Sequence
from pathlib import Path

from lampq.configuration.composition_failures import FULL, TRACEBACK, disk_is_full
from lampq.errors import LampQError, line

MEMORY = "dataset.batch_size, prefix_memory_gib or observation_memory_gib"
"""Keys with which a run takes less memory."""


NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS)
NO_PLACE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
"""What a path that a user has typed may be wrong by; of a run's own paths these are unexpected."""


def explain_failure(error: BaseException, paths: Sequence[str], folder: str, typed: str | None = None) -> str:
    """One line on what went wrong in a job; the traceback of an unexpected error goes to a file that it names.

    Args:
        paths: the folders that a run writes to.
        folder: where the traceback goes.
        typed: options by which a command's own files are named, in words; None for a run, which has none.
    """
    if isinstance(error, LampQError):
        return line(error)
    if disk_is_full(error):
        return f"{_full_folder(error, paths)}: {FULL}"
    if isinstance(error, OSError) and error.errno in (NO_ACCESS if typed is None else (*NO_ACCESS, *NO_PLACE)):
        other = "choose other folders by paths.results and paths.cache" if typed is None else f"give another {typed}"
        return f"{error.filename}: {error.strerror}; {other}"
    if type(error).__name__ == "OutOfMemoryError":
        return f"out of GPU memory: lower {MEMORY}, or use device=cpu"
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return f"out of memory: lower {MEMORY}"
    if isinstance(error, ModuleNotFoundError) and not (error.name or "lampq").startswith("lampq"):
        return f"the package {error.name} is not installed: pip install {error.name}"
    return f"{type(error).__name__}: {line(error)} (unexpected; {_write_traceback(error, folder)})"


def _full_folder(error: BaseException, paths: Sequence[str]) -> str:
    """The path that could not be written, or else the fullest of the folders that a run writes to."""
    if getattr(error, "filename", None):
        return str(error.filename)
    free = {}
    for path in (*paths, _temporary_folder()):
        folder = Path(path).expanduser().absolute()
        while not folder.exists():
            folder = folder.parent
        free[str(path)] = shutil.disk_usage(folder).free
    fullest = min(free, key=free.get)
    return fullest if fullest in map(str, paths) else f"TMPDIR={fullest}"


def _temporary_folder() -> str:
    # Where TMPDIR is so full that nothing can be tried there, Python chooses another folder.
    return next((os.environ[name] for name in ("TMPDIR", "TEMP", "TMP") if os.environ.get(name)), "/tmp")


def _write_traceback(error: BaseException, folder: str) -> str:
    path = Path(folder) / f"traceback-{os.getpid()}.txt"
    try:
        path.write_text("".join(traceback.format_exception(error)))
    except OSError:
        return f"{TRACEBACK}=1 shows where"
    return f"traceback in {os.path.relpath(path)}"
