"""A table for people (Markdown, LaTeX, HTML) and for programs (CSV), written from one object."""

import html
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lampq.storage.atomic_write import write_text

if TYPE_CHECKING:
    import pandas as pd

NOTHING = "–"
"""A cell that has no figure."""


@dataclass(frozen=True)
class Table:
    """A titled table with footnotes.

    Attributes:
        name: of the files.
        title: what is measured, in which unit.
        header: of the columns.
        body: rows of cells; a row of one cell is a heading of those that follow.
        records: the numbers behind it, in long form: a row a measurement.
        notes: footnotes, marked a, b, ... where the cells refer to them.
        remarks: what else the reader should know, a paragraph each.
        sources: the runs that the numbers come from, a line each.
    """

    name: str
    title: str
    header: list[str]
    body: list[list[str]]
    records: "pd.DataFrame"
    notes: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)

    def write(self, folder: Path) -> list[Path]:
        """Write NAME.csv (the records), NAME.md and NAME.tex."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{self.name}.{ending}" for ending in ("csv", "md", "tex")]
        write_text(paths[0], self.records.to_csv(index=False))
        write_text(paths[1], self.markdown())
        write_text(paths[2], self.latex())
        return paths

    def markdown(self) -> str:
        """The table in GitHub's Markdown."""
        rows = [self.header, ["---"] * len(self.header)]
        rows += [row if len(row) > 1 else [f"**{row[0]}**", *[""] * (len(self.header) - 1)] for row in self.body]
        rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
        lines = [f"# {self.title}", "", *(f"| {' | '.join(row)} |" for row in rows), ""]
        lines += [f"<sup>{mark(i)}</sup> {note}  " for i, note in enumerate(self.notes)]
        for remark in self.remarks:
            lines += ["", remark]
        if self.sources:
            lines += ["", "Runs:", "", *(f"- {source}" for source in self.sources)]
        return "\n".join(lines) + "\n"

    def latex(self) -> str:
        """The table as a LaTeX `table` (package booktabs)."""
        columns = "l" + "r" * (len(self.header) - 1)
        lines = [
            "% needs \\usepackage{booktabs}",
            "\\begin{table}",
            f"\\caption{{{latex_text(self.title)}}}",
            f"\\begin{{tabular}}{{{columns}}}",
            "\\toprule",
            " & ".join(latex_text(name) for name in self.header) + " \\\\",
            "\\midrule",
        ]
        for row in self.body:
            cells = [latex_text(text) for text in row]
            if len(cells) == 1:
                lines += ["\\midrule"] * (lines[-1] != "\\midrule")
                cells = [f"\\multicolumn{{{len(self.header)}}}{{l}}{{\\textbf{{{cells[0]}}}}}"]
            lines.append(" & ".join(cells) + " \\\\")
        lines += ["\\bottomrule", "\\end{tabular}"]
        lines += [f"\\par\\textsuperscript{{{mark(i)}}} {latex_text(note)}" for i, note in enumerate(self.notes)]
        lines += [f"\\par {latex_text(remark)}" for remark in self.remarks]
        return "\n".join([*lines, "\\end{table}", *(f"% {source}" for source in self.sources)]) + "\n"

    def html(self) -> str:
        """The table as an HTML fragment."""
        head = "".join(f"<th>{html_text(name)}</th>" for name in self.header)
        rows = ""
        for row in self.body:
            cells = "".join(f"<td>{html_text(text)}</td>" for text in row)
            heading = f"<th colspan={len(self.header)}>{html_text(row[0])}</th>"
            rows += f"<tr>{cells if len(row) > 1 else heading}</tr>"
        notes = "".join(f"<p class=note><sup>{mark(i)}</sup> {html_text(n)}</p>" for i, n in enumerate(self.notes))
        remarks = "".join(f"<p>{html_text(remark)}</p>" for remark in self.remarks)
        if self.sources:
            items = "".join(f"<li>{html_text(source)}</li>" for source in self.sources)
            remarks += f"<details><summary>Runs</summary><ul>{items}</ul></details>"
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        return f"<div class=wide>{table}</div>{notes}{remarks}"


def mark(index: int) -> str:
    """The mark of a footnote: a, b, ... z, aa, ab, ..."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    return letters[index] if index < 26 else letters[index // 26 - 1] + letters[index % 26]


def marked(index: int) -> str:
    """The mark as it stands in a cell's text."""
    return f"<sup>{mark(index)}</sup>"


GREEK = {"α": "alpha", "β": "beta", "γ": "gamma", "μ": "mu", "ρ": "rho", "Δ": "Delta", "Ω": "Omega"}
LATEX = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    **{letter: f"$\\{name}$" for letter, name in GREEK.items()},
    "\\": "\\textbackslash{}",
    "^": "\\textasciicircum{}",
    "~": "\\textasciitilde{}",
    "<": "$<$",
    ">": "$>$",
    "±": "$\\pm$",
    "−": "$-$",
    "²": "$^2$",
    "≤": "$\\leq$",
    "≥": "$\\geq$",
    "×": "$\\times$",
    "–": "--",
}
"""What stands for a character that LaTeX takes for something else, or has no letter for."""


def latex_text(text: str) -> str:
    """Plain text and <sup>marks</sup> for LaTeX."""
    pattern = re.compile("|".join(re.escape(key) for key in LATEX))
    parts = re.split(r"<sup>(\w+)</sup>", text)
    for i in range(0, len(parts), 2):
        parts[i] = pattern.sub(lambda match: LATEX[match[0]], parts[i])
    for i in range(1, len(parts), 2):
        parts[i] = f"\\textsuperscript{{{parts[i]}}}"
    return "".join(parts).replace("`", "")


def html_text(text: str) -> str:
    """Plain text, <sup>marks</sup> and `code` for HTML."""
    escaped = html.escape(text, quote=False).replace("&lt;sup&gt;", "<sup>").replace("&lt;/sup&gt;", "</sup>")
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped)
