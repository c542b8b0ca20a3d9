"""Output to streams that cannot encode everything: a sign has a plain spelling, the rest becomes ?."""

import codecs
from typing import TextIO

PLAIN = {
    "±": "+/-",
    "−": "-",
    "–": "-",
    "—": "-",
    "…": "...",
    "×": "x",
    "²": "^2",
    "·": "*",
    "≤": "<=",
    "≥": ">=",
    "α": "alpha",
    "β": "beta",
    "γ": "gamma",
    "μ": "mu",
    "ρ": "rho",
    "Δ": "Delta",
    "Ω": "Omega",
}
"""How a character is spelled where it cannot be encoded."""


def degrade(*streams: TextIO | None) -> None:
    """Let text streams spell out what their encoding lacks, instead of failing after the work is done."""
    codecs.register_error("lampq.plain", _plain)
    for stream in streams:
        if hasattr(stream, "reconfigure"):  # not where somebody has put a stream of their own in its place, or none
            stream.reconfigure(errors="lampq.plain")


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(c, "?") for c in error.object[error.start : error.end]), error.end
