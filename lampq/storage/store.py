"""Expensive results on disk, by the content they were made from: computed once, read by every later run.

Bank entries, Fisher traces and evaluations of plans all lie here. An entry is a safetensors file named by the hash
of its key (everything that the numbers depend on). Writing is atomic, computing is locked, so parallel processes do
the work once; a file is verified when it is read, and a corrupt or stale one is computed again. Where an entry
cannot be kept (a folder for reading only), the run goes on without it.
"""

import contextlib
import errno
import hashlib
import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lampq.storage.atomic_write import write_whole
from lampq.storage.fingerprint import fingerprint
from lampq.storage.lock import hold, remove_left_over

log = logging.getLogger(__name__)

Tensors = dict[str, Tensor]

NOT_KEPT = {
    errno.EACCES: "give yourself write permission there, or choose another paths.cache",
    errno.EPERM: "give yourself write permission there, or choose another paths.cache",
    errno.EROFS: "choose another paths.cache",
    errno.EISDIR: "remove the folder that has its name",
    errno.ENOTDIR: "remove the file that is in the way",
    errno.EEXIST: "remove the file that is in the way",
    errno.ENOTEMPTY: "remove the folder that has its name",
    errno.ELOOP: "remove the link",
}
"""Why an entry cannot be kept although nothing is wrong with it, and what a user can do."""


class Store:
    """A folder of computed tensors.

    Args:
        root: the folder (made when needed).

    Attributes:
        seconds_read: what the entries that were read had cost when they were computed, in seconds.
        seconds_computed: what was spent on computing entries in this process, by kind, in seconds.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root).expanduser()
        self.seconds_read: dict[str, float] = {}
        self.seconds_computed: dict[str, float] = {}
        self._memory: dict[tuple[str, str], Tensors] = {}
        self._counted: set[tuple[str, str]] = set()
        self._before: dict[Path, float] = {}
        self._nested = threading.local()
        self._told: set[str] = set()
        self._lock = threading.Lock()

    def fetch(
        self, kind: str, key: dict, compute: Callable[[], Tensors], concurrency: int = 1, remember: bool = True
    ) -> Tensors:
        """Read an entry, or compute and keep it.

        Args:
            kind: sub-folder, for example ``bank``.
            key: everything that the tensors depend on; JSON-able.
            compute: called on a miss; returns tensors by name.
            concurrency: how many entries are being computed at once; the time of each counts by this fraction, so
                that sums of seconds are wall time.
            remember: hold the tensors in memory too; False for what is large, which is read again when it is asked
                for again.
        """
        name = fingerprint(key)
        if (kind, name) not in self._memory:
            path = self.path(kind, key)
            found = self._read(path, key)
            if found is None:
                with self._alone(kind, path):
                    found = self._read(path, key)  # another process may have computed it meanwhile
                    if found is None:
                        found = self._compute(kind, path, key, compute, concurrency)
                        self._counted.add((kind, name))
                        if remember:
                            self._memory[kind, name] = found
                        return found
            else:
                remove_left_over(_lock_path(path))
            tensors, seconds = found
            if (kind, name) not in self._counted:
                self._counted.add((kind, name))
                self.seconds_read[kind] = self.seconds_read.get(kind, 0.0) + seconds
            if not remember:
                return tensors
            self._memory[kind, name] = tensors
        return self._memory[kind, name]

    def holds(self, kind: str, key: dict) -> bool:
        """Whether an entry is there, without reading it."""
        name = fingerprint(key)
        return (kind, name) in self._memory or os.path.isfile(self.path(kind, key))

    def path(self, kind: str, key: dict) -> Path:
        """The file of an entry, whether it is there or not."""
        name = fingerprint(key)
        return self.root / kind / name[:2] / f"{name}.safetensors"

    def partial(self, kind: str, key: dict) -> "Partial":
        """Where `compute` of a long entry keeps its state now and then, to go on from after a kill."""
        return Partial(self, self.path(kind, key), key)

    def forget(self) -> None:
        """Drop what is held in memory (files stay)."""
        self._memory.clear()
        self._counted.clear()

    def _compute(self, kind: str, path: Path, key: dict, compute: Callable[[], Tensors], concurrency: int) -> Tensors:
        # Entries may need other entries; what those cost is counted there, not here again.
        outer, self._nested.seconds = getattr(self._nested, "seconds", 0.0), 0.0
        start = time.perf_counter()
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in compute().items()}
        elapsed = (time.perf_counter() - start) / concurrency
        seconds = elapsed - self._nested.seconds
        self._nested.seconds = outer + elapsed
        with self._lock:
            self.seconds_computed[kind] = self.seconds_computed.get(kind, 0.0) + seconds
            seconds += self._before.pop(path, 0.0)
        self._write(path, key, tensors, seconds)
        with contextlib.suppress(OSError):
            _partial_path(path).unlink(missing_ok=True)
        return tensors

    @contextlib.contextmanager
    def _alone(self, kind: str, path: Path) -> Iterator[None]:
        """Keep other processes from computing an entry at the same time, where a lock can be made."""
        # A lock for each entry: an entry is computed while those that need it are locked, and what needs what has no
        # circle. Entries that shared a lock could wait for each other.
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(hold(_lock_path(path), f"the stored entry {kind}/{path.stem}"))
            except OSError as error:
                if error.errno not in NOT_KEPT:
                    raise
                self._tell_not_kept(path, error)
            yield

    def _write(self, path: Path, key: dict, tensors: Tensors, seconds: float) -> None:
        metadata = {"key": json.dumps(key, sort_keys=True), "seconds": repr(seconds), "digest": tensors_hash(tensors)}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, lambda temporary: save_file(tensors, str(temporary), metadata=metadata))
        except (OSError, SafetensorError) as error:
            number = getattr(error, "errno", None)
            if number in NOT_KEPT:
                self._tell_not_kept(path, error)
                return
            raise OSError(number, f"cannot write: {error}", str(path)) from error

    def _read(self, path: Path, key: dict) -> tuple[Tensors, float] | None:
        if not os.path.exists(path) or path.is_dir():  # a folder is told when the entry cannot be kept
            return None
        try:
            with path.open("rb"):  # the operating system says best why it cannot be read
                pass
            with safe_open(str(path), framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            seconds = float(metadata["seconds"])
            if not (math.isfinite(seconds) and seconds >= 0):
                raise ValueError(f"seconds={seconds}")
            fits = metadata["key"] == json.dumps(key, sort_keys=True) and metadata["digest"] == tensors_hash(tensors)
        except PermissionError:
            text = "stored entry %s cannot be read: permission denied; ask %s for it; computing it again"
            self._tell(text, path, _owner(path))
            return None
        except (SafetensorError, OSError) as error:
            self._tell("stored entry %s cannot be read (%s): computing it again", path, _first_line(error))
            return None
        except (KeyError, ValueError, TypeError, RuntimeError):  # the header is damaged, or another program's
            fits = False
        if not fits:
            self._tell("stored entry %s does not hold what its name says: computing it again", path)
            return None
        return tensors, seconds

    def _tell_not_kept(self, path: Path, error: OSError) -> None:
        # One line for all entries that have the same thing in the way, or for the whole store.
        number = errno.EISDIR if path.is_dir() else error.errno
        in_the_way = [place for place in path.parents if os.path.lexists(place) and not place.is_dir()]
        place = path if number in (errno.EISDIR, errno.ENOTEMPTY) else in_the_way[0] if in_the_way else self.root
        text = "results are not kept in %s (%s): %s; the run goes on without"
        self._tell(text, place, os.strerror(number), NOT_KEPT[number])

    def _tell(self, text: str, *values: object) -> None:
        """Warn, once of each thing."""
        message = text % values
        with self._lock:
            known = message in self._told
            self._told.add(message)
        if not known:
            log.warning("%s", message)


class Partial:
    """The state of one entry that is being computed; gone once the entry is there.

    What it had cost before an interruption counts in the entry's seconds.
    """

    def __init__(self, store: Store, path: Path, key: dict) -> None:
        self._store, self._path, self._key = store, path, key
        self._started = time.perf_counter()

    def read(self) -> Tensors | None:
        """The state last kept, or None."""
        found = self._store._read(_partial_path(self._path), self._key)
        if found is None:
            return None
        state, self._store._before[self._path] = found
        return state

    def write(self, state: Tensors) -> None:
        """Keep a state in place of the one before."""
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        seconds = self._store._before.get(self._path, 0.0) + time.perf_counter() - self._started
        self._store._write(_partial_path(self._path), self._key, state, seconds)


def _lock_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _owner(path: Path) -> str:
    try:
        return f"its owner ({path.owner()})"
    except (KeyError, OSError):
        return "its owner"


def _partial_path(path: Path) -> Path:
    return path.with_suffix(".partial.safetensors")


def tensors_hash(tensors: Tensors) -> str:
    """A hash over names, types, shapes and values of tensors on the CPU."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
