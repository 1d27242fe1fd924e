"""What processes that compute do with their memory."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import threading, psutil
from dreamrl.process import release_memory, settle
settle()
used = lambda: psutil.Process().memory_info().rss
def work():
    kept.append([bytearray(2000) for _ in range(100_000)][-1])  # the last block holds on to the heap below it
kept, before = [], used()
for _ in range(2):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
held = used() - before
release_memory()
print(held, used() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps a heap for every thread")
def test_memory_that_is_free_goes_back():
    printed = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout
    held, left = map(int, printed.split())
    assert held > 150e6 and left < 0.1 * held
