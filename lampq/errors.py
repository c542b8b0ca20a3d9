"""Mistakes that a user can make, told in one line."""


class LampQError(Exception):
    """A user's mistake or a missing thing: one line that names the key, the value and the remedy.

    The entry points print the line without a traceback and exit with a non-zero status.
    """


def line(message: object) -> str:
    """A message without line breaks."""
    return " ".join(str(message).split())
