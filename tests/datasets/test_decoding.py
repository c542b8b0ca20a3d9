"""Decoding: 8 bits a channel as other loaders have it, nothing lost in silence, what cannot be read is named."""

import io
import struct
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from lampq.datasets.coco import Coco
from lampq.datasets.decoding import decode, look
from lampq.errors import LampQError

RAMP = np.tile(np.arange(256, dtype=np.uint16), (16, 1))
EIGHT = RAMP.astype(np.uint8)
PATH = Path("some.png")


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


TWINS = {
    "PNG, 16 bits": encoded(Image.fromarray(RAMP * 257)),
    "TIFF, 16 bits": encoded(Image.fromarray(RAMP * 257), "TIFF"),
    "PGM, 16 bits": b"P5 256 16 65535\n" + (RAMP * 257).astype(">u2").tobytes(),
    "PGM, 10 bits": b"P5 256 16 1023\n" + (RAMP * 4).astype(">u2").tobytes(),
    "PNG, 16 bits, colours": cv2.imencode(".png", np.dstack([RAMP * 257] * 3))[1].tobytes(),
    "grey and opaque": encoded(Image.fromarray(EIGHT).convert("LA")),
    "colours and opaque": encoded(Image.fromarray(EIGHT).convert("RGBA")),
    "palette": encoded(Image.fromarray(EIGHT).convert("P")),
}


@pytest.mark.parametrize("kind", TWINS)
def test_values_are_those_of_the_8_bit_twin(kind, tmp_path):
    twin = np.asarray(Image.fromarray(EIGHT).convert("RGB"))
    assert np.array_equal(np.asarray(decode(PATH, TWINS[kind])), twin)
    look(PATH, TWINS[kind])
    (tmp_path / "a.png").write_bytes(TWINS[kind])
    assert np.array_equal(coco_without_files()._decode(tmp_path / "a.png"), twin)


def coco_without_files():
    from lampq.storage.digests import Digests

    dataset = Coco.__new__(Coco)
    dataset.keep_digests(Digests())
    return dataset


@pytest.mark.parametrize("pixels", [RAMP.astype(np.int32) * 257, RAMP.astype(np.float32) / 255], ids=["I", "F"])
@pytest.mark.parametrize("read", [decode, look])
def test_values_that_have_no_8_bit_twin_are_refused_by_name(pixels, read):
    with pytest.raises(LampQError, match=r"^image some\.png has values that 8 bits"):
        read(PATH, encoded(Image.fromarray(pixels), "TIFF"))


def test_transparency_and_orientation_are_left_out_as_by_other_loaders():
    picture = Image.fromarray(EIGHT).convert("RGB")
    half = picture.copy()
    half.putalpha(128)
    assert np.array_equal(np.asarray(decode(PATH, encoded(half))), np.asarray(picture))
    turned = Image.Exif()
    turned[0x0112] = 6
    assert decode(PATH, encoded(picture, "JPEG", exif=turned)).size == (256, 16)


@pytest.mark.parametrize("read", [decode, look])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
def test_what_is_cut_off_or_no_image_is_named(kind, read):
    whole = encoded(Image.effect_noise((64, 64), 50).convert("RGB"), kind)
    for content in (whole[: len(whole) // 2], whole[:20], b"", b"<html>"):
        with pytest.raises(LampQError, match=r"^image some\.png cannot be read \([^<]+\); replace or remove it$"):
            read(PATH, content)


def blank(width, height):
    """A PNG of so many black pixels, without ever holding them."""
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + (width + 7) // 8)) for _ in range(height)) + packer.flush()
    chunks = (b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


@pytest.mark.parametrize("read", [decode, look])
def test_an_image_too_large_for_pillow_is_named(read):
    with pytest.raises(LampQError, match=r"^image some\.png cannot be read \(more than 178 million pixels\)"):
        read(PATH, blank(19_000, 10_000))


def test_an_image_half_as_large_is_read_in_silence():
    with warnings.catch_warnings(record=True) as raised:
        look(PATH, blank(10_000, 9_500))
    assert not raised
