"""Figures in few colours."""

import io

import pytest
from PIL import Image

from lampq.errors import LampQError
from lampq.report.pictures import in_few_colours


def test_it_takes_fewer_bytes_and_looks_the_same(tmp_path):
    drawn = tmp_path / "figure.png"
    image = Image.new("RGB", (64, 48), "white")
    image.paste((0, 114, 178), (8, 8, 40, 40))
    image.save(drawn, compress_level=0)
    shown = in_few_colours(drawn)
    assert len(shown) < drawn.stat().st_size / 10
    with Image.open(io.BytesIO(shown)) as image, Image.open(drawn) as source:
        assert image.convert("RGB").tobytes() == source.tobytes()


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_what_is_no_picture_is_named(tmp_path, content):
    path = tmp_path / "broken.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LampQError, match=r"broken\.png: (is no picture|cannot be read)"):
        in_few_colours(path)
