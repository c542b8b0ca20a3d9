"""Tables for people and programs, written from one object."""

import csv
import re
from html.parser import HTMLParser

import pytest

from experiments.expected_errors import table2, table9
from experiments.frame import tidy
from lampq.report.table import Table, latex_text, mark, marked

TABLE = Table(
    "example",
    "Top-1 (%) of R&D",
    ["method", "top-1", "drop"],
    [
        ["full precision", "80.00 ± 4.02", "72.13"],
        ["DeiT-T, W3_A3"],
        ["LampQ, <b>", f"44.00{marked(0)}", "−36.00"],
        ["a_b", "missing", "–"],
    ],
    tidy([{"method": "a", "top1": 44.0}, {"method": "b", "state": "missing, of course"}]),
    notes=["100 of 50,000 images", "D of 64 images & less"],
    remarks=["First `a_b`.", "Second."],
    sources=["`f00`: `run.py bits=3`"],
)


class Rows(HTMLParser):
    """Cells of an HTML table, by row."""

    def __init__(self, html):
        super().__init__()
        self.rows, self.tags = [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        if self.rows and self.tags[-1] in ("td", "th", "sup"):
            self.rows[-1][-1] += data


def test_footnotes_are_lettered_like_columns_of_a_sheet():
    assert [mark(i) for i in (0, 1, 25, 26, 27, 51, 52, 701)] == ["a", "b", "z", "aa", "ab", "az", "ba", "zz"]
    assert len({mark(i) for i in range(500)}) == 500
    assert marked(0) == "<sup>a</sup>"


def test_markdown_has_one_line_a_row_footnotes_remarks_and_runs():
    lines = TABLE.markdown().splitlines()
    assert lines[0] == "# Top-1 (%) of R&D"
    assert lines[2:8] == [
        "| method | top-1 | drop |",
        "| --- | --- | --- |",
        "| full precision | 80.00 ± 4.02 | 72.13 |",
        "| **DeiT-T, W3_A3** |  |  |",
        "| LampQ, <b> | 44.00<sup>a</sup> | −36.00 |",
        "| a_b | missing | – |",
    ]
    assert "<sup>a</sup> 100 of 50,000 images  " in lines and "<sup>b</sup> D of 64 images & less  " in lines
    assert lines.index("First `a_b`.") + 2 == lines.index("Second.")
    assert lines[-1] == "- `f00`: `run.py bits=3`"


def test_a_bar_in_a_cell_does_not_begin_another_in_markdown():
    table = Table("x", "x", ["a|b", "c"], [["LampQ, note=a|b", "2|3"]], tidy([]))
    header, _, row = table.markdown().splitlines()[2:5]
    for line in (header, row):
        assert len(re.findall(r"(?<!\\)\|", line)) == 3, line
    assert "note=a\\|b" in row


def test_latex_has_the_same_rows_with_what_is_special_escaped():
    text = TABLE.latex()
    assert "\\caption{Top-1 (\\%) of R\\&D}" in text and "\\begin{tabular}{lrr}" in text
    rows = [line for line in text.splitlines() if line.endswith(" \\\\")]
    assert rows == [
        "method & top-1 & drop \\\\",
        "full precision & 80.00 $\\pm$ 4.02 & 72.13 \\\\",
        "\\multicolumn{3}{l}{\\textbf{DeiT-T, W3\\_A3}} \\\\",
        "LampQ, $<$b$>$ & 44.00\\textsuperscript{a} & $-$36.00 \\\\",
        "a\\_b & missing & -- \\\\",
    ]
    assert "\\par\\textsuperscript{a} 100 of 50,000 images" in text and "64 images \\& less" in text
    assert "\\par First a\\_b." in text and "% `f00`: `run.py bits=3`" in text
    assert text.count("\\begin{") == text.count("\\end{") == 2


def test_latex_text():
    for text, latex in [
        ("50 % & more", "50 \\% \\& more"),
        ("a_b {c} #1 $2", "a\\_b \\{c\\} \\#1 \\$2"),
        ("back\\slash", "back\\textbackslash{}slash"),
        ("~/x^2", "\\textasciitilde{}/x\\textasciicircum{}2"),
        ("E[ΔX²] ≥ ρ_B × μ", "E[$\\Delta$X$^2$] $\\geq$ $\\rho$\\_B $\\times$ $\\mu$"),
        ("12.3<sup>ab</sup>", "12.3\\textsuperscript{ab}"),
        ("`code`", "code"),
    ]:
        assert latex_text(text) == latex, (text, latex)


@pytest.mark.parametrize("table", [table2(), table9()], ids=lambda table: table.name)
def test_greek_letters_do_not_stop_latex(table):
    """pdfLaTeX has no letter for them outside of formulas."""
    text = "\n".join(line for line in table.latex().splitlines() if not line.startswith("%"))
    assert text.isascii(), sorted({letter for letter in text if not letter.isascii()})
    assert text.count("$") % 2 == 0


def test_html_has_the_same_rows_and_escapes_text():
    found = Rows(TABLE.html())
    assert found.rows[:4] == [
        ["method", "top-1", "drop"],
        ["full precision", "80.00 ± 4.02", "72.13"],
        ["DeiT-T, W3_A3"],
        ["LampQ, <b>", "44.00a", "−36.00"],
    ]
    assert "b" not in found.tags and found.tags.count("sup") == 3 and found.tags.count("tr") == 5
    assert "D of 64 images &amp; less" in TABLE.html() and "<code>a_b</code>" in TABLE.html()
    assert "<li><code>f00</code>: <code>run.py bits=3</code></li>" in TABLE.html()


def test_an_empty_cell_is_empty_everywhere():
    table = Table("x", "x", ["a", "b"], [["1", ""]], tidy([]))
    assert Rows(table.html()).rows[1] == ["1", ""]
    assert "| 1 |  |" in table.markdown() and "1 &  \\\\" in table.latex()


def test_the_csv_has_all_columns_of_all_records_in_their_order(tmp_path):
    paths = TABLE.write(tmp_path / "tables")
    assert [path.name for path in paths] == ["example.csv", "example.md", "example.tex"]
    with paths[0].open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["method", "top1", "state"], ["a", "44.0", ""], ["b", "", "missing, of course"]]
    assert paths[1].read_text() == TABLE.markdown() and paths[2].read_text() == TABLE.latex()
    assert sorted(p.name for p in (tmp_path / "tables").iterdir()) == sorted(p.name for p in paths)
