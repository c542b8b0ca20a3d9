"""One HTML page with everything in it."""

import base64
from html.parser import HTMLParser

from lampq.report import page

EVIL = "<i>'\"&</i>"


class Reader(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)


def test_a_picture_is_inside_the_page():
    ((tag, attributes),) = Reader(page.picture(b"a picture", EVIL)).tags
    assert (tag, attributes["alt"]) == ("img", EVIL)
    kind, data = attributes["src"].split(",")
    assert kind == "data:image/png;base64" and base64.b64decode(data) == b"a picture"


def test_text_stays_text():
    for html in (page.paragraph(EVIL), page.command(EVIL), page.folded(EVIL), page.section(EVIL, EVIL)):
        found = Reader(html)
        assert EVIL in "".join(found.words) and "i" not in {tag for tag, _ in found.tags}


def test_sections_are_linked_and_in_order():
    sections = {"one": page.section("one", "First", page.paragraph("a")), "two": page.section("two", "Second")}
    found = Reader(page.page(EVIL, "Introduction", sections))
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert ids == ["one", "two"]
    assert [a["href"] for tag, a in found.tags if tag == "a"] == ["#one", "#two"]
    assert found.words.count(EVIL) == 2, "title and heading"
    assert [w for w in found.words if w in ("Introduction", "First", "a", "Second")] == [
        "Introduction",
        "First",
        "a",
        "Second",
    ]


def test_folded_parts_are_parts():
    found = Reader(page.folded("more", page.paragraph("a"), page.command("b")))
    assert [tag for tag, _ in found.tags] == ["details", "summary", "p", "pre"] and found.words == ["more", "a", "b"]
