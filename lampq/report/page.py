"""One HTML page with everything in it: no other file, no network."""

import base64
import html

from lampq.report.table import html_text

LINE = "\n"
"""Between parts, so that two versions of a page can be compared line by line."""
STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #777; --accent: #0072B2 }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem }
h2 { font-size: 1.2rem; margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 1rem }
nav a { margin-right: 1em } a { color: var(--accent) }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3em .7em; text-align: right; vertical-align: top; border-bottom: 1px solid var(--line) }
th:first-child, td:first-child { text-align: left } td { white-space: nowrap } tbody th { padding-top: 1em }
p, .note { overflow-wrap: anywhere } .note { color: var(--soft); margin: .2em 0 }
.bits caption { text-align: left; padding: .3em 0 }
.bits th, .bits td, .bits th:first-child { text-align: center; padding: .15em .5em }
img { max-width: 100%; background: #fff }
details { margin: .5em 0 } pre { overflow-x: auto; padding: .6em; border: 1px solid var(--line) }
"""


def section(anchor: str, title: str, *parts: str) -> str:
    """A part of the page with a heading that can be linked to."""
    return f"<section id='{html.escape(anchor)}'><h2>{html.escape(title)}</h2>{LINE.join(parts)}</section>"


def paragraph(text: str) -> str:
    """Plain text; what stands in `backticks` is code."""
    return f"<p>{html_text(text)}</p>"


def command(text: str) -> str:
    """A command to copy."""
    return f"<pre>{html.escape(text)}</pre>"


def picture(png: bytes, description: str) -> str:
    """A PNG, inside the page."""
    data = base64.b64encode(png).decode()
    return f"<img alt='{html.escape(description, quote=True)}' src='data:image/png;base64,{data}'>"


def folded(summary: str, *parts: str) -> str:
    """Parts that a click unfolds."""
    return f"<details><summary>{html.escape(summary)}</summary>{''.join(parts)}</details>"


def page(title: str, introduction: str, sections: dict[str, str]) -> str:
    """The whole page.

    Args:
        title, introduction: plain text.
        sections: HTML by anchor.
    """
    links = "".join(f"<a href='#{html.escape(anchor)}'>{html.escape(anchor)}</a>" for anchor in sections)
    return (
        f"<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body><h1>{html.escape(title)}</h1>"
        f"{paragraph(introduction)}<nav>{links}</nav>{LINE.join(sections.values())}</body></html>\n"
    )
