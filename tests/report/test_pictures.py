"""Figures in few colours, encoded once."""

import io

import pytest
from PIL import Image

from lampq.errors import LampQError
from lampq.report import pictures
from lampq.report.pictures import Pictures


@pytest.fixture
def drawn(tmp_path):
    path = tmp_path / "figure.png"
    image = Image.new("RGB", (64, 48), "white")
    image.paste((0, 114, 178), (8, 8, 40, 40))
    image.save(path, compress_level=0)
    return path


@pytest.fixture
def encodings(monkeypatch):
    """How often something was encoded."""
    done, encode = [], pictures._encode
    monkeypatch.setattr(pictures, "_encode", lambda *a: (done.append(a[1]), encode(*a))[1])
    return done


def test_it_takes_fewer_bytes_and_looks_the_same(drawn, tmp_path):
    shown = Pictures(tmp_path / "kept").encoded(drawn)
    assert len(shown) < drawn.stat().st_size / 10
    with Image.open(io.BytesIO(shown)) as image, Image.open(drawn) as source:
        assert image.convert("RGB").tobytes() == source.tobytes()


def test_what_has_not_changed_is_not_encoded_again(drawn, tmp_path, encodings):
    first = Pictures(tmp_path / "kept").encoded(drawn)
    assert Pictures(tmp_path / "kept").encoded(drawn) == first and len(encodings) == 1
    Image.new("RGB", (64, 48), "red").save(drawn)
    assert Pictures(tmp_path / "kept").encoded(drawn) != first and len(encodings) == 2


def test_a_kept_picture_that_was_changed_is_encoded_again(drawn, tmp_path, encodings):
    first = Pictures(tmp_path / "kept").encoded(drawn)
    (kept,) = (tmp_path / "kept").iterdir()
    kept.write_bytes(first[:-1] + b"x")
    assert Pictures(tmp_path / "kept").encoded(drawn) == first and len(encodings) == 2


def test_what_nothing_shows_any_more_is_forgotten(drawn, tmp_path):
    Pictures(tmp_path / "kept").encoded(drawn)
    Pictures(tmp_path / "kept").forget_others()
    assert not list((tmp_path / "kept").iterdir())


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_what_is_no_picture_is_named(tmp_path, content):
    path = tmp_path / "broken.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LampQError, match=r"broken\.png: (is no picture|cannot be read)"):
        Pictures(tmp_path / "kept").encoded(path)
