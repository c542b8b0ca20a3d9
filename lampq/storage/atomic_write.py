"""Files that are there as a whole or not at all, whatever happens while they are written."""

import csv
import io
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Write a text, UTF-8 whatever the locale is, in place of what is there; a link is replaced, not followed."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """The same for bytes."""
    write_whole(path, lambda temporary: temporary.write_bytes(content))


def write_rows(path: Path, rows: list[dict[str, Any]], columns: Iterable[str] = ()) -> None:
    """Write rows as CSV, some columns first, others in the order in which they first appear."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, csv_text(rows, columns))


def csv_text(rows: list[dict[str, Any]], columns: Iterable[str] = ()) -> str:
    """What `write_rows` writes."""
    text = io.StringIO()
    names = list(dict.fromkeys([*columns, *(key for row in rows for key in row)]))
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside its place and move it there; two processes that write it leave one of the two.

    Args:
        path: its place.
        write: writes the file whose path it is given. Its mode follows the umask, whatever `write` makes of it:
            some libraries make files that only their owner can read.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        mode = os.fstat(descriptor).st_mode & 0o777
        os.close(descriptor)
        write(temporary)
        if os.stat(temporary).st_mode & 0o777 != mode:
            os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
