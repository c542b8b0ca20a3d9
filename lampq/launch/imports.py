"""Imports of PyTorch and timm, which take seconds, in three quarters of the time."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

LAST = "timm"
"""The library after which all large ones are there."""


@contextmanager
def no_garbage_collected() -> Iterator[None]:
    """For imports: a million objects that stay would be looked through for garbage, again and again.

    What is there at the end is not looked at later either. Once `LAST` has been imported nothing is done: what a job
    leaves behind is garbage, its tensors among it.
    """
    if LAST in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
