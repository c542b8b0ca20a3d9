"""Freed memory of this process is kept for the next tensor."""

import contextlib
import ctypes
import os

LARGEST_KEPT = 32 << 20
"""Bytes of the largest block that is kept, the most that the C library allows; larger ones go back to the system."""
KEPT = 64 << 20
"""Bytes that are kept at most at the end of what the process holds."""

LIMITS = {"MALLOC_MMAP_THRESHOLD_": (-3, LARGEST_KEPT), "MALLOC_TRIM_THRESHOLD_": (-1, KEPT)}
"""By the environment variable that sets the same: the number in malloc.h, and the value here."""


def keep_freed_memory() -> None:
    """Have glibc keep what is freed, where it otherwise gives a tensor of some MB back to the system at once.

    The system hands such memory out again page by page, which took a tenth of a run that scores one plan of DeiT-T on
    a CPU. No number depends on it. A limit that its environment variable sets stays, and so do other C libraries.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # a C library without it, or none that is found
        library = ctypes.CDLL(None)
        for variable, (number, value) in LIMITS.items():
            if variable not in os.environ:
                library.mallopt(number, value)
