"""What every process that computes does first, and between two pieces of work."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from typing import Any, cast

import torch

KEEP_BYTES = 2**30
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
"""From glibc's malloc.h."""


def settle(deterministic: bool = False) -> None:
    """One torch thread, a heap that is kept, and only ``deterministic`` operations if so asked.

    More threads than one slow networks of this size down. glibc hands large blocks back to the kernel and asks
    for them again at every step: keeping them made a training step a fifth faster, at the same peak memory.
    """
    torch.set_num_threads(1)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is repeatable only with a fixed workspace
        torch.use_deterministic_algorithms(True)
        # Filling fresh memory finds mistakes, which is not what is asked here.
    cast(Any, torch.utils.deterministic).fill_uninitialized_memory = False
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(M_MMAP_THRESHOLD, KEEP_BYTES)
            libc.mallopt(M_TRIM_THRESHOLD, KEEP_BYTES)
            libc.mallopt(M_TOP_PAD, 2**26)


def release_memory() -> None:
    """Hand back to the kernel what is free, which :func:`settle` has glibc keep: for processes that live on.

    Every thread has a heap of its own there, so one piece of work after the other, each in a new thread, would keep
    more and more.
    """
    gc.collect()
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)
