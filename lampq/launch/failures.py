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


def explain_failure(error: BaseException, paths: Sequence[str], folder: str) -> str:
    """One line on what went wrong in a job; the traceback of an unexpected error goes to a file that it names.

    Args:
        paths: the folders that a run writes to.
        folder: where the traceback goes.
    """
    if isinstance(error, LampQError):
        return line(error)
    if disk_is_full(error):
        return f"{_full_folder(error, paths)}: {FULL}"
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{error.filename}: {error.strerror}; choose other folders by paths.results and paths.cache"
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
