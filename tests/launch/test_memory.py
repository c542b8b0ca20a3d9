"""Freed memory is kept for what comes next."""

import ctypes
import os
import platform
import subprocess
import sys

import pytest

from lampq.launch.memory import LIMITS, keep_freed_memory

PAGES = """
import resource
from lampq.launch.memory import keep_freed_memory

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        tensors = [bytearray(4 << 20) for _ in range(2)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

handed_out = pages()
keep_freed_memory()
pages()
print(handed_out, pages())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs the GNU C library")
def test_the_system_hands_out_few_pages_again():
    """In a process whose memory is not in use yet."""
    before, after = pages_handed_out({})
    assert after < before / 10


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs the GNU C library")
def test_limits_of_the_environment_stay():
    before, after = pages_handed_out(dict.fromkeys(LIMITS, "131072"))
    assert after > before / 2


def pages_handed_out(limits):
    """Before and after, in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name not in LIMITS} | limits
    output = subprocess.run([sys.executable, "-c", PAGES], env=environment, capture_output=True, text=True, check=True)
    return map(int, output.stdout.split())


def test_a_c_library_without_it_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    keep_freed_memory()
