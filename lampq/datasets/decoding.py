"""Decoding single images, as torchvision and timm read them; what they lose without a word is kept or refused.

The orientation that a camera notes (EXIF) is not applied, of several frames the first counts, transparency and colour
profiles are left out and CMYK becomes RGB by Pillow's formula: so does every published number. Of 16 bits a channel the
higher eight count, as Pillow and OpenCV have it for colour; Pillow would cut grey ones off at 255.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lampq.errors import LampQError

if TYPE_CHECKING:
    from PIL.Image import Image

PLAIN = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")
"""Pillow's modes of 8 bits a channel at most."""
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
AS_THIRTY_TWO = ("PNG", "PPM")
"""Formats whose grey values of 16 bits some versions of Pillow hold as 32 (mode I)."""


def decode(path: Path, content: bytes) -> "Image":
    """The image in a file's bytes, of 8 bits a channel, red, green and blue.

    Raises:
        LampQError: names the file: it is no image, damaged, too large, or of values that 8 bits cannot hold.
    """
    from PIL import Image

    with opened(path, content) as image:
        if sixteen_bits(path, image):
            return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)).convert("RGB")
        return image.convert("RGB")


def look(path: Path, content: bytes) -> None:
    """Make sure that `decode` will do, for a small part of its time: of a JPEG every eighth pixel is decoded.

    Raises:
        LampQError: as `decode`.
    """
    with opened(path, content) as image:
        sixteen_bits(path, image)
        image.draft("RGB", (1, 1))
        image.load()


def sixteen_bits(path: Path, image: "Image") -> bool:
    """Whether an image is grey, of 16 bits a pixel.

    Raises:
        LampQError: its values are others than those of a picture.
    """
    if image.mode in SIXTEEN_BITS or (image.mode == "I" and image.format in AS_THIRTY_TWO):
        return True
    if image.mode not in PLAIN:
        raise LampQError(
            f"image {path} has values that 8 bits a channel cannot hold (Pillow's mode {image.mode}); replace it"
        )
    return False


@contextmanager
def opened(path: Path, content: bytes) -> Iterator["Image"]:
    """An image before its pixels are decoded; whatever the decoder raises becomes a line that names the file."""
    from PIL import Image, UnidentifiedImageError

    _no_warnings_of_size()
    try:
        with Image.open(io.BytesIO(content)) as image:
            yield image
    except LampQError:
        raise
    except Exception as error:
        if isinstance(error, UnidentifiedImageError):
            reason = "of no kind that Pillow knows"
        elif isinstance(error, Image.DecompressionBombError):
            reason = f"more than {2 * Image.MAX_IMAGE_PIXELS // 10**6} million pixels"
        else:
            reason = " ".join(str(error).split()) or type(error).__name__
        raise LampQError(f"image {path} cannot be read ({reason}); replace or remove it") from error


def _no_warnings_of_size() -> None:
    """Pillow warns of images half as large as those it refuses; they are read."""
    from PIL import Image

    if not any(kind is Image.DecompressionBombWarning for _, _, kind, *_ in warnings.filters):
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
