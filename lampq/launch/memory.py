"""Freed memory of this process is kept for the next tensor."""

import contextlib
import ctypes

LARGEST_KEPT = 32 << 20
"""Bytes of the largest block that is kept, the most that the C library allows; larger ones go back to the system."""
KEPT = 64 << 20
"""Bytes that are kept at most at the end of what the process holds."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_freed_memory() -> None:
    """Have glibc keep what is freed, where it otherwise gives a tensor of some MB back to the system at once.

    The system hands such memory out again page by page, which took a fifth of a quantized forward pass on a CPU. No
    number depends on it. Other C libraries are left as they are; in a process of one's own, the environment variables
    ``MALLOC_TRIM_THRESHOLD_`` and ``MALLOC_MMAP_THRESHOLD_`` do the same.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # a C library without it, or none that is found
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, LARGEST_KEPT)
        library.mallopt(_TRIM_THRESHOLD, KEPT)
