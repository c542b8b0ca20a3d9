"""Reading one batch while the one before is being worked on."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def read_ahead(batches: Sequence[Any], read: Callable[[Any], Any]) -> Iterator[Any]:
    """`read(batch)` of every batch in order; the next one is read meanwhile, in a thread."""
    with ThreadPoolExecutor(1) as ahead:
        pending = None
        for batch in [*batches, None]:
            upcoming = ahead.submit(read, batch) if batch is not None else None
            if pending is not None:
                yield pending.result()
            pending = upcoming
