"""Drawn figures in few colours, as the page holds them, kept from one report to the next by what they are made of."""

import hashlib
import io
from pathlib import Path

from lampq.errors import LampQError
from lampq.report.page import picture
from lampq.storage.atomic_write import write_bytes

COLOURS = 64
"""As many as a drawn figure has; it takes a fraction of the space then."""


class Pictures:
    """Encoded figures in a folder, each named by the digest of its source and that of itself.

    A figure that has not changed is not encoded again; one whose file is not what its name says is.

    Args:
        folder: where they are kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._kept = {path.stem.partition("-")[0]: path for path in folder.glob("*-*.png")}
        self._used: set[Path] = set()

    def shown(self, path: Path, description: str) -> str:
        """An image element with a figure in it.

        Raises:
            LampQError: the file is no picture.
        """
        return picture(self.encoded(path), description)

    def encoded(self, path: Path) -> bytes:
        """A PNG of few colours.

        Raises:
            LampQError: the file is no picture.
        """
        try:
            source = path.read_bytes()
        except OSError as error:
            raise LampQError(f"{path}: cannot be read ({error.strerror})") from error
        key = f"{_digest(source)}{COLOURS}o"
        kept = self._kept.get(key)
        if kept is not None:
            content = kept.read_bytes() if kept.is_file() else b""
            if kept.stem == f"{key}-{_digest(content)}":
                self._used.add(kept)
                return content
        content = _encode(source, path)
        self._kept[key] = kept = self.folder / f"{key}-{_digest(content)}.png"
        self.folder.mkdir(parents=True, exist_ok=True)
        write_bytes(kept, content)
        self._used.add(kept)
        return content

    def forget_others(self) -> None:
        """Remove what was not asked for since this object was made: nothing shows it any more."""
        for path in set(self.folder.glob("*-*.png")) - self._used:
            path.unlink(missing_ok=True)


def _encode(source: bytes, path: Path) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    try:
        with Image.open(io.BytesIO(source), formats=["PNG"]) as image:
            # By octree: a third of the time of the median cut, colours half a step of 255 off on average.
            image.convert("RGB").quantize(COLOURS, method=Image.Quantize.FASTOCTREE).save(buffer, format="PNG")
    except Exception as error:  # Pillow has no error of its own for what is damaged
        raise LampQError(f"{path}: is no picture ({type(error).__name__})") from error
    return buffer.getvalue()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]
