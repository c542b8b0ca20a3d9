import math

import pytest

from lampq.errors import LampQError
from lampq.limits import boolean, choice, folder, fraction, integer, number, optional, text


def test_good_values_come_back():
    for accepted, value in [
        (integer("k", 3, 1, 3), 3),
        (integer("k", -5), -5),
        (number("k", 0.5, above=0, at_most=1), 0.5),
        (number("k", 2, at_least=2), 2),
        (fraction("k", 1), 1),
        (boolean("k", False), False),
        (text("k", "word"), "word"),
        (choice("k", "b", ("a", "b")), "b"),
        (optional(integer, "k", None, minimum=1), None),
        (optional(integer, "k", 2, minimum=1), 2),
    ]:
        assert accepted == value and type(accepted) is type(value), (accepted, value)


def test_wrong_values_are_named_in_one_line():
    for check, message in [
        (lambda: integer("k", "3"), "k='3': must be an integer"),
        (lambda: integer("k", 3.0), "k=3.0: must be an integer"),
        (lambda: integer("k", True, minimum=0), "k=true: must be an integer of at least 0"),
        (lambda: integer("k", None), "k=null: must be an integer"),
        (lambda: integer("k", 0, 1, 16), "k=0: must be an integer between 1 and 16"),
        (lambda: integer("k", 17, maximum=16), "k=17: must be an integer of at most 16"),
        (lambda: number("k", "0.5"), "k='0.5': must be a number"),
        (lambda: number("k", True), "k=true: must be a number"),
        (lambda: number("k", math.nan), "k=nan: must be a number"),
        (lambda: number("k", math.inf, at_least=0), "k=inf: must be a number of at least 0"),
        (lambda: number("k", 0, above=0), "k=0: must be a number above 0"),
        (lambda: number("k", 0, above=0, at_most=2), "k=0: must be a number above 0 and at most 2"),
        (lambda: number("k", 3, at_least=0, at_most=2), "k=3: must be a number between 0 and 2"),
        (lambda: fraction("lampq.mu", 6), "lampq.mu=6: must be a fraction of the blocks in (0, 1], for example 0.5"),
        (lambda: fraction("k", 0, of="images"), "k=0: must be a fraction of images in (0, 1], for example 0.5"),
        (lambda: boolean("k", 1), "k=1: must be true or false"),
        (lambda: boolean("k", "true"), "k='true': must be true or false"),
        (lambda: text("k", "  "), "k='  ': must be a text, not empty"),
        (lambda: choice("k", "smapled", ("sampled", "dataset")), "did you mean sampled?"),
        (lambda: choice("k", "x", ("sampled", "dataset")), "k=x: must be one of sampled, dataset"),
        (lambda: choice("k", True, (1, 2)), "k=true: must be one of 1, 2"),
        (lambda: optional(integer, "k", 0, minimum=1), "k=0: must be an integer of at least 1, or null"),
    ]:
        with pytest.raises(LampQError) as caught:
            check()
            pytest.fail(f"accepted: {check}, {message}")
        assert message in str(caught.value), (check, message)
        assert "\n" not in str(caught.value), (check, message)


def test_a_folder_need_not_be_there_but_nothing_else_may_have_its_name(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "linked").symlink_to(tmp_path)
    for good in ("", "new/deep", "linked/new"):
        assert folder("k", str(tmp_path / good)) == tmp_path / good
    wrong = {"file": "is a file", "file/below": "is a file", "link": "is a link that leads nowhere"}
    for name, reason in wrong.items():
        with pytest.raises(LampQError, match=f"k=.*{name}: .* {reason}; give a folder"):
            folder("k", str(tmp_path / name))
    with pytest.raises(LampQError, match=r"k=~nobody-here/x: .*; give a folder"):
        folder("k", "~nobody-here/x")


def test_a_folder_that_can_only_be_read_will_do_where_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    assert folder("k", str(tmp_path), readable=True) == tmp_path
    with pytest.raises(LampQError, match="cannot be written to; give another folder"):
        folder("k", str(tmp_path))
