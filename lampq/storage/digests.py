"""What is in files: the sha256 of their bytes, remembered for as long as nothing about a file has changed.

Images are identified by their content, not by their names. Reading 50,000 of them takes a minute, so a digest is kept
with the file's size, both its times in nanoseconds and its inode, and holds only while all four are what they were: a
file that is replaced by one of the same size with its old time put back has another change time. Else the content is
read again.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lampq.errors import LampQError
from lampq.progress import progress
from lampq.storage.atomic_write import write_text
from lampq.storage.fingerprint import fingerprint

log = logging.getLogger(__name__)

RECENT = 3.0
"""Seconds. A file that has changed within them may change once more without another time to show for it (clocks of file
systems tick in milliseconds to seconds), so what is read of it now is not remembered."""
THREADS = 4
AT_ONCE = 64
"""Files that a thread looks at before it reports."""
REVISION = 1
"""Raised when `look` of a data set finds more than it did: everything is looked at again."""

Row = tuple[int, int, int, int, str]
"""Size in bytes, time of the content and of the last change in nanoseconds, inode, digest."""


class Digests:
    """Digests of files, in memory and, if a folder is given, on disk for later runs.

    Processes may share the folder: a file of it appears as a whole, and the last one written stays. What is missing in
    it or damaged is read again; where nothing can be written, a line says so.

    Args:
        folder: where they are kept, one file for each folder that `of` is asked about; None for nowhere.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._rows: dict[str, dict[str, Row]] = {}
        self._named: dict[str, str] = {}

    def of(self, root: Path, names: Sequence[str], look: Callable[[Path, bytes], object] | None = None) -> list[str]:
        """sha256 of files, in hexadecimal digits.

        Args:
            root: a folder.
            names: paths of files relative to it.
            look: called with a file's path and bytes where these are read, to refuse what is no good.

        Raises:
            LampQError: a file cannot be read, or is being written; and what `look` raises.
        """
        place = os.path.abspath(root)
        known = self._remembered(place)
        new: dict[str, Row] = {}
        pieces = [names[start : start + AT_ONCE] for start in range(0, len(names), AT_ONCE)]
        bar = progress(description=f"looking at files in {place}", total=len(names), unit="files", delay=2)
        with bar, ThreadPoolExecutor(THREADS) as pool:
            try:
                for piece in pool.map(lambda piece: list(_rows(place, piece, known, look)), pieces):
                    for name, row, lasting in piece:
                        self._named[os.path.join(place, name)] = row[4]
                        if lasting and known.get(name) != row:
                            new[name] = row
                    bar.update(len(piece))
            finally:
                pool.shutdown(cancel_futures=True)
                if new:
                    known.update(new)
                    self._keep(place, new)
        return [self._named[os.path.join(place, name)] for name in names]

    def repeated(self, training: Path, validation: Path) -> list[str]:
        """Lines on files under two folders that hold the same, of those that were asked for; none where none do."""
        contents: list[list[str]] = []
        for folder in (training, validation):
            within = os.path.join(os.path.abspath(folder), "")
            contents.append([digest for path, digest in self._named.items() if path.startswith(within)])
        lines = []
        if more := len(contents[0]) - len(set(contents[0])):
            lines.append(f"{more} of the images of {training} that are used hold the same as others of them")
        if both := len(set(contents[0]) & set(contents[1])):
            lines.append(f"{both} of the validation images hold the same as images of {training} that are used")
        return lines

    def known(self, root: Path, names: Iterable[str]) -> set[str]:
        """The digests of those files under a folder that were asked for before."""
        place = os.path.abspath(root)
        return {self._named[path] for name in names if (path := os.path.join(place, name)) in self._named}

    def check(self, path: Path, content: bytes) -> None:
        """Make sure that what is read from a file now is what it was identified by.

        Raises:
            LampQError: it is not.
        """
        known = self._named.get(os.path.abspath(path))
        if known is not None and known != hashlib.sha256(content).hexdigest():
            raise LampQError(f"{path}: has changed since this run looked at it; run again when it is as it is to be")

    def _remembered(self, place: str) -> dict[str, Row]:
        if place not in self._rows:
            self._rows[place] = {} if self.folder is None else self._read(place)
        return self._rows[place]

    def _path(self, place: str) -> Path:
        return self.folder / f"{fingerprint(place)}.json"

    def _read(self, place: str) -> dict[str, Row]:
        path = self._path(place)
        try:
            head, _, text = path.read_text().partition("\n")
            if head != _seal(text):
                raise ValueError
            content = json.loads(text)
            if (content["folder"], content["revision"]) != (place, REVISION):
                return {}
            return {name: tuple(row) for name, row in content["files"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "damaged"
            log.warning("kept digests %s cannot be used (%s): the files are read again", path, reason)
            return {}

    def _keep(self, place: str, new: dict[str, Row]) -> None:
        if self.folder is None:
            return
        path = self._path(place)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            files = {**self._read(place), **new}  # another process may have written meanwhile
            text = json.dumps({"folder": place, "revision": REVISION, "files": files})
            write_text(path, f"{_seal(text)}\n{text}")
        except OSError as error:
            reason = error.strerror or type(error).__name__
            log.warning("digests cannot be kept in %s (%s): later runs read these files again", path, reason)


def _rows(
    place: str, names: Sequence[str], known: dict[str, Row], look: Callable[[Path, bytes], object] | None
) -> Iterator[tuple[str, Row, bool]]:
    """(name, row, whether it may be remembered) of each file; read where what is known does not hold."""
    for name in names:
        path = os.path.join(place, name)
        try:
            row = known.get(name)
            if row is not None and row[:4] == _signature(os.stat(path)):
                yield name, row, True
                continue
            now = time.time()
            with open(path, "rb") as file:
                before = _signature(os.fstat(file.fileno()))
                content = file.read()
                after = _signature(os.fstat(file.fileno()))
        except OSError as error:
            raise LampQError(f"{path}: cannot be read ({error.strerror}); replace or remove it") from error
        if before != after:
            raise LampQError(f"{path}: is being written; run again when it is complete")
        if look is not None:
            look(Path(path), content)
        lasting = all(abs(now - nanoseconds / 1e9) > RECENT for nanoseconds in before[1:3])
        yield name, (*before, hashlib.sha256(content).hexdigest()), lasting


def _signature(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _seal(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
