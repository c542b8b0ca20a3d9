"""Limits of single values: each check hands the value back, or says in one line what is wrong and what would be right.

Strings are not numbers here ("3" is refused where 3 is meant) and true is not 1.
"""

import difflib
import math
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lampq.errors import LampQError

LARGEST = 2**31 - 1
"""The largest integer where no limit is given: as many as libraries count in 32 bits."""
LARGEST_NUMBER = 1e12
"""The largest number where no limit is given."""
LONGEST = 4096
"""Characters of a text, at most: as many as a path may have."""
SHOWN = 200
"""Characters of a value that a message shows."""


def integer(key: str, value: Any, minimum: int | None = None, maximum: int | None = None) -> int:
    """An integer within [minimum, maximum].

    Raises:
        LampQError: it is not.
    """
    if maximum is None and isinstance(value, int) and value > LARGEST:
        maximum = LARGEST
    if isinstance(value, bool) or not isinstance(value, int) or not _within(value, minimum, maximum):
        raise LampQError(f"{key}={shown(value)}: must be an integer{_range(minimum, maximum)}")
    return value


def number(
    key: str,
    value: Any,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
) -> float:
    """A finite number, integer or not, within the given bounds.

    Raises:
        LampQError: it is not.
    """
    good = not isinstance(value, bool) and isinstance(value, int | float) and abs(value) < math.inf
    if at_most is None and good and value > LARGEST_NUMBER:
        at_most = LARGEST_NUMBER
    if not good or (above is not None and value <= above) or not _within(value, at_least, at_most):
        bounds = f" above {above}" if above is not None else ""
        bounds += _range(at_least, at_most) if not bounds or at_most is None else f" and at most {at_most}"
        raise LampQError(f"{key}={shown(value)}: must be a number{bounds}")
    return value


def fraction(key: str, value: Any, of: str = "the blocks") -> float:
    """A fraction in (0, 1] of something, as mu is of the blocks.

    Raises:
        LampQError: it is not.
    """
    try:
        return number(key, value, above=0, at_most=1)
    except LampQError:
        message = f"{key}={shown(value)}: must be a fraction of {of} in (0, 1], for example 0.5"
        raise LampQError(message) from None


def boolean(key: str, value: Any) -> bool:
    """True or false.

    Raises:
        LampQError: it is not.
    """
    if not isinstance(value, bool):
        raise LampQError(f"{key}={shown(value)}: must be true or false")
    return value


def text(key: str, value: Any) -> str:
    """A string with something in it.

    Raises:
        LampQError: it is not.
    """
    if not isinstance(value, str) or not value.strip():
        raise LampQError(f"{key}={shown(value)}: must be a text, not empty")
    if len(value) > LONGEST or not value.isprintable():
        raise LampQError(f"{key}={shown(value)}: must be a text of at most {LONGEST} characters, all of them printable")
    return value


def word(key: str, value: Any) -> str:
    """A string that may be the name of a file or a folder: no part of it is a path.

    Raises:
        LampQError: it is not.
    """
    if not isinstance(value, str) or not re.fullmatch(r"[\w-]{1,100}", value):
        raise LampQError(
            f"{key}={shown(value)}: must be a word of letters, digits, - and _, at most 100, as a folder's name"
        )
    return value


def folder(key: str, value: Any, readable: bool = False) -> Path:
    """A folder to write to, which is made where it is not there.

    Args:
        key, value: what was given.
        readable: one that can only be read will do.

    Raises:
        LampQError: it is something else, or cannot be written to.
    """
    path = Path(text(key, value))
    try:
        path = path.expanduser()
        above = path
        while not os.path.lexists(above):
            above = above.parent
        if not above.is_dir():
            kind = "a file" if above.exists() else "a link that leads nowhere"
            raise LampQError(f"{key}={shown(value)}: {above} is {kind}; give a folder")
        if not readable and not os.access(above, os.W_OK | os.X_OK):
            raise LampQError(f"{key}={shown(value)}: {above} cannot be written to; give another folder")
    except (OSError, RuntimeError) as error:  # a name that is too long; a home that nobody has
        reason = getattr(error, "strerror", None) or error
        raise LampQError(f"{key}={shown(value)}: {reason}; give a folder") from error
    return path


def file(key: str, value: Any) -> Path:
    """A file that is there.

    Raises:
        LampQError: it is not.
    """
    path = Path(text(key, value))
    try:
        path = path.expanduser()
        there = path.is_file()
    except (OSError, RuntimeError) as error:
        raise LampQError(f"{key}={shown(value)}: {getattr(error, 'strerror', None) or error}; give a file") from error
    if not there:
        raise LampQError(f"{key}={shown(value)}: {'is no file' if path.exists() else 'no such file'}; give one")
    return path


def choice(key: str, value: Any, options: Iterable[Any]) -> Any:
    """One of the given options.

    Raises:
        LampQError: it is not.
    """
    options = list(options)
    if any(value == option and type(value) is type(option) for option in options):
        return value
    near = did_you_mean(value, options)
    raise LampQError(f"{key}={shown(value)}: must be one of {', '.join(map(shown, options))}{near}")


def optional(check: Callable[..., Any], key: str, value: Any, *bounds: Any, **named_bounds: Any) -> Any:
    """None (null in YAML), or what another check accepts: ``optional(integer, "threads", value, minimum=1)``.

    Raises:
        LampQError: it is neither.
    """
    if value is None:
        return None
    try:
        return check(key, value, *bounds, **named_bounds)
    except LampQError as error:
        raise LampQError(f"{error}, or null") from None


def did_you_mean(word: Any, options: Iterable[Any]) -> str:
    """``; did you mean X?`` with the nearest option, or nothing where none is near."""
    near = difflib.get_close_matches(shown(word), [str(option) for option in options], n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def shown(value: Any) -> str:
    """A value as one would type it: null, true, 3, text in quotes where it could be taken for something else.

    What is long is cut.
    """
    if isinstance(value, int) and abs(value) > 10**SHOWN:
        return f"a number of more than {SHOWN} digits"
    said = _typed(value)
    return said if len(said) <= SHOWN else f"{said[:SHOWN]}... ({len(said)} characters)"


def _typed(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        looks_plain = value.strip() and not value[0].isdigit() and value.lower() not in ("null", "true", "false")
        return " ".join(value.split()) if looks_plain else f"'{value}'"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(shown, value))}]"
    return str(value)


def _within(value: float, minimum: float | None, maximum: float | None) -> bool:
    return (minimum is None or value >= minimum) and (maximum is None or value <= maximum)


def _range(minimum: float | None, maximum: float | None) -> str:
    if minimum is not None and maximum is not None:
        return f" between {minimum} and {maximum}"
    if minimum is not None:
        return f" of at least {minimum}"
    return f" of at most {maximum}" if maximum is not None else ""
