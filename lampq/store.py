"""Expensive results on disk, by the content they were made from: computed once, read by every later run.

Bank entries, Fisher traces and evaluations of plans all lie here. An entry is a safetensors file named by the hash
of its key (everything that the numbers depend on). Writing is atomic, computing is locked, so parallel processes do
the work once; a file is verified when it is read, and a corrupt or stale one is computed again.
"""

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lampq.fingerprint import fingerprint

log = logging.getLogger(__name__)

Tensors = dict[str, Tensor]


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
                path.parent.mkdir(parents=True, exist_ok=True)
                with FileLock(f"{path}.lock"):
                    found = self._read(path, key)  # another process may have computed it meanwhile
                    if found is None:
                        found = self._compute(kind, path, key, compute, concurrency)
                        self._counted.add((kind, name))
                        if remember:
                            self._memory[kind, name] = found
                        return found
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
        return (kind, name) in self._memory or self.path(kind, key).is_file()

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
        _partial_path(path).unlink(missing_ok=True)
        return tensors

    def _write(self, path: Path, key: dict, tensors: Tensors, seconds: float) -> None:
        metadata = {"key": json.dumps(key, sort_keys=True), "seconds": repr(seconds), "digest": tensors_hash(tensors)}
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            save_file(tensors, str(temporary), metadata=metadata)
            os.replace(temporary, path)
        except (OSError, SafetensorError) as error:
            temporary.unlink(missing_ok=True)
            raise OSError(getattr(error, "errno", None), f"cannot write: {error}", str(path)) from error

    def _read(self, path: Path, key: dict) -> tuple[Tensors, float] | None:
        if not path.is_file():
            return None
        try:
            with safe_open(str(path), framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            log.warning("stored entry %s cannot be read (%s): computing it again", path, _first_line(error))
            return None
        if metadata.get("key") != json.dumps(key, sort_keys=True) or metadata.get("digest") != tensors_hash(tensors):
            log.warning("stored entry %s does not hold what its name says: computing it again", path)
            return None
        return tensors, float(metadata["seconds"])


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
        self._path.parent.mkdir(parents=True, exist_ok=True)
        seconds = self._store._before.get(self._path, 0.0) + time.perf_counter() - self._started
        self._store._write(_partial_path(self._path), self._key, state, seconds)


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
