"""Work that may not take long, whatever it waits for."""

import threading
import time
from collections.abc import Callable
from typing import Any


class TimeLimit:
    """Seconds for several calls in all. Each runs in a thread of its own, which is left behind where time is over.

    Args:
        seconds: how many.

    Attributes:
        left: seconds that have not been spent, not below 0.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = self.left = float(seconds)

    def call(self, action: Callable[[], Any], at_most: float | None = None) -> Any:
        """Call, and return what is returned.

        Args:
            action: what to do.
            at_most: seconds for this call; None = all that are left.

        Raises:
            TimeoutError: it had not returned by then.
            Exception: what it raised.
        """
        limit = self.left if at_most is None else at_most
        returned: list[Any] = []
        raised: list[BaseException] = []

        def work() -> None:
            try:
                returned.append(action())
            except BaseException as error:
                raised.append(error)

        started = time.monotonic()
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            thread.join(limit)
        finally:
            self.left = max(self.left - (time.monotonic() - started), 0.0)
        if raised:
            raise raised[0]
        if not returned:
            whole = f"{self.seconds:g} s in all" if at_most is None else f"{at_most:g} s"
            raise TimeoutError(f"no answer within {whole}")
        return returned[0]
