"""Threads that work side by side, each on one core.

What they compute does not depend on how many of them there are, so numbers are the same on any machine.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item, Result = TypeVar("Item"), TypeVar("Result")


class Workers:
    """As many threads as PyTorch has, for work that is cut into a fixed number of pieces; used as a context.

    On a GPU the pieces are worked on one after another, by the thread that asks. A context inside another one has the
    outer one's threads.

    Args:
        device: where the work is done.
    """

    _pools: list[ThreadPoolExecutor | None] = []  # noqa: RUF012

    def __init__(self, device: torch.device) -> None:
        self._on_cpu = device.type == "cpu"
        self._threads: int | None = None
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> "Workers":
        if self._pools:
            self._pool = self._pools[-1]
        else:
            self._threads = torch.get_num_threads()
            torch.set_num_threads(1)  # this thread too
            if self._on_cpu and self._threads > 1:
                self._pool = ThreadPoolExecutor(self._threads, initializer=torch.set_num_threads, initargs=(1,))
        self._pools.append(self._pool)
        return self

    def __exit__(self, *exception: object) -> None:
        self._pools.pop()
        if self._threads is not None:
            if self._pool is not None:
                self._pool.shutdown(cancel_futures=True)
            torch.set_num_threads(self._threads)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Results in the order of the items. Gradient modes are a thread's own: `function` sets what it needs."""
        if self._pool is None:
            return [function(item) for item in items]
        return list(self._pool.map(function, items))
