"""Whether images fit into memory, asked before any are read."""

import os
from math import prod
from pathlib import Path

from lampq.errors import LampQError

COPIES = 3
"""Times that a set of images is in memory while it is being prepared, at most."""
CONTROL_GROUP = Path("/sys/fs/cgroup/memory.max")


def check_memory(counts: dict[str, int], image_bytes: int) -> None:
    """Refuse more images than fit.

    Args:
        counts: images that are held at the same time, by the key that says how many.
        image_bytes: of a prepared image.

    Raises:
        LampQError: names the key that most of them are due to.
    """
    needed, there = COPIES * image_bytes * sum(counts.values()), memory()
    if needed > there:
        key = max(counts, key=counts.get)
        raise LampQError(
            f"{key}={counts[key]}: preparing these images takes about {needed / 2**30:,.0f} GiB of memory, and this "
            f"machine has {there / 2**30:,.0f}; give fewer, {there // (COPIES * image_bytes)} of all kinds at most"
        )


def tensor_bytes(shape: tuple[int, ...]) -> int:
    """Bytes of a float32 tensor."""
    return 4 * prod(shape)


def memory() -> int:
    """Bytes that this process may use."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(there, int(CONTROL_GROUP.read_text()))
    except (OSError, ValueError):  # no such group, or without a limit ("max")
        return there
