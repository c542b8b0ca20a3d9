"""Jobs in a process of their own: what they return, what they raise, and how they may die."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lampq.errors import LampQError
from lampq.launch.isolation import Died, Isolated


def process_id(delay: float = 0) -> int:
    time.sleep(delay)
    return os.getpid()


def refuse(message: str) -> None:
    raise LampQError(message)


def leave(status: int) -> None:
    sys.exit(status)


def leave_at_once(status: int) -> None:
    os._exit(status)


def kill_itself(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(10)


def survive(number: int) -> str:
    os.kill(os.getpid(), number)
    return "alive"


@pytest.fixture
def isolated():
    one = Isolated()
    yield one
    one.stop()


def is_there(pid: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def gone(pid: int, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while is_there(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not is_there(pid)


def test_one_process_does_job_after_job_and_is_not_this_one(isolated):
    first, second = isolated.call(process_id), isolated.call(process_id)
    assert first == second != os.getpid()


def test_what_a_job_raises_comes_back_with_where(isolated):
    with pytest.raises(LampQError, match="wrong key") as caught:
        isolated.call(refuse, "wrong key")
    assert any("in refuse" in note for note in caught.value.__notes__)
    assert isolated.call(process_id)  # and the process goes on


@pytest.mark.parametrize(
    ("function", "argument", "message"),
    [
        (leave, 3, "exit with status 3"),
        (leave_at_once, 7, "exited with status 7"),
        (kill_itself, signal.SIGKILL, "SIGKILL"),
        (kill_itself, signal.SIGSEGV, "SIGSEGV"),
    ],
    ids=["SystemExit", "os._exit", "SIGKILL", "SIGSEGV"],
)
def test_a_job_that_dies_is_told_and_the_next_one_runs(isolated, function, argument, message):
    with pytest.raises(Died, match=message):
        isolated.call(function, argument)
    assert isolated.call(process_id) != os.getpid()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2"])
def test_signals_to_the_whole_group_are_the_parents_affair(isolated, name):
    assert isolated.call(survive, getattr(signal, name)) == "alive"


def test_a_kill_in_the_middle_of_a_job_is_noticed_at_once():
    isolated = Isolated()
    pid = isolated.call(process_id)
    answers = []

    def work():
        try:
            isolated.call(process_id, 60)
        except Died as error:
            answers.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.2)
    os.kill(pid, signal.SIGKILL)
    thread.join(10)
    assert len(answers) == 1 and gone(pid)


def test_when_the_calling_process_is_killed_the_job_ends_too(tmp_path):
    program = (
        "from lampq.launch.isolation import Isolated\n"
        "from tests.launch.test_isolation import process_id\n"
        "if __name__ == '__main__':\n"
        "    isolated = Isolated()\n"
        "    print(isolated.call(process_id), flush=True)\n"
        "    isolated.call(process_id, 60)\n"
    )
    (tmp_path / "program.py").write_text(program)
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, str(tmp_path / "program.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        pid = int(parent.stdout.readline())
        parent.kill()
    assert gone(pid)
