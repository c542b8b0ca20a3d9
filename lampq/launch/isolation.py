"""Jobs in a process of their own: one that dies, or asks to exit, takes nothing else down.

The process stays for the next job (imports and the model are there already) and is started anew where it has died.
"""

import contextlib
import multiprocessing
import multiprocessing.resource_tracker
import multiprocessing.util
import os
import signal
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from lampq.errors import LampQError

LEFT_ALONE = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGCONT")]
"""What stops a job comes from the process that started it: Ctrl-C and a scheduler's signals reach both."""


class Died(LampQError):
    """The process ended in the middle of a job."""


class Isolated:
    """Calls functions in another process, one after another."""

    def __init__(self) -> None:
        self._process: multiprocessing.process.BaseProcess | None = None
        self._busy = False
        self._connection: Connection | None = None

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function of some module there, and return what it returns; all must be picklable.

        Raises:
            Died: the process ended before it could answer.
            BaseException: what the function raised; an exit is a `Died`.
        """
        if self._process is None or not self._process.is_alive():
            self._start()
        self._busy = True
        try:
            self._connection.send((function, arguments))
            good, answer = self._connection.recv()
            self._busy = False
        except (EOFError, OSError) as error:
            self._process.join(10)
            code = self._process.exitcode
            self.stop()
            raise Died(f"its process {_how_it_ended(code)}; what it had computed is kept, run it again") from error
        except BaseException:  # interrupted while waiting
            self.stop()
            raise
        if good:
            return answer
        raise answer

    def stop(self) -> None:
        """End the process, also in the middle of a job: everything it writes is written atomically."""
        if self._process is not None:
            self._connection.close()
            if not self._busy:
                self._process.join(5)  # it goes when nobody can call it any more
            self._process.kill()
            self._process.join(10)
        self._process = self._connection = None
        self._busy = False

    def _start(self) -> None:
        self.stop()
        if multiprocessing.get_start_method() not in multiprocessing.get_all_start_methods():
            # A worker of joblib has a way of its own, which a process of ours would be told and not know.
            multiprocessing.set_start_method("spawn", force=True)
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True, name="lampq-job")
        multiprocessing.resource_tracker.ensure_running()  # now: it would unblock the signals
        before = signal.pthread_sigmask(signal.SIG_BLOCK, LEFT_ALONE)  # until the process ignores them itself
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        # At the end of this process, also where joblib started it, and before multiprocessing ends its processes by a
        # signal, which ours ignores, and waits for them.
        multiprocessing.util.Finalize(None, self.stop, exitpriority=100)


shared = Isolated()
"""The process that the jobs of this process share."""


def _serve(connection: Connection) -> None:
    """Answer calls until the other side is gone."""
    for number in LEFT_ALONE:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, LEFT_ALONE)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        try:
            answer = True, function(*arguments)
        except SystemExit as error:
            answer = False, Died(f"it asked its process to exit with status {error.code}")
        except BaseException as error:
            error.add_note("".join(traceback.format_exception(error)))
            answer = False, error
        with contextlib.suppress(BrokenPipeError):
            try:
                connection.send(answer)
            except Exception as error:  # an answer that cannot be pickled
                connection.send((False, Died(f"its answer cannot be sent: {error}")))


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _how_it_ended(code: int | None) -> str:
    if code is None:
        return "stopped answering"
    if code >= 0:
        return f"exited with status {code}"
    with contextlib.suppress(ValueError):
        name = signal.Signals(-code).name
        hint = " (out of memory, perhaps)" if name == "SIGKILL" else ""
        return f"was ended by {name}{hint}"
    return f"was ended by signal {-code}"
