"""Progress and the time left, for everything that takes more than a few seconds."""

import sys
import threading

from tqdm import tqdm

tqdm.set_lock(threading.RLock())  # tqdm's own is shared by processes, and left behind by one that is killed


def progress(iterable=None, *, description: str, total: int | None = None, unit: str = "it", delay: float = 0) -> tqdm:
    """A progress bar on stderr: live in a terminal, one line every half minute in a log file.

    Args:
        iterable: what to go through, or None to advance by hand with `.update()`.
        description: what is being done, in plain words.
        total: number of steps, where the iterable has no length.
        unit: what one step is.
        delay: seconds after which the bar is shown, for work that is mostly over by then.
    """
    live = sys.stderr.isatty()
    return tqdm(
        iterable,
        desc=description,
        total=total,
        unit=f" {unit}",
        delay=delay,
        mininterval=0.2 if live else 30.0,
        leave=False,
        dynamic_ncols=live,
        smoothing=0.1,
    )
