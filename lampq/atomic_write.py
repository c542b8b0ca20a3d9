"""Files that are there as a whole or not at all, whatever happens while they are written."""

import os
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write a file beside its place and move it there; two processes that write it leave one of the two texts."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
