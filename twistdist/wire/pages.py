"""Huge pages for large objects: filling fresh memory costs a fault for each page, which on virtual machines takes longer than
copying the page's content."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import sys
from functools import cache
from typing import Any

#: Bytes from which huge pages are requested, as numpy does for its arrays.
HUGE_FROM_BYTES = 4 << 20

_MADV_HUGEPAGE = 14


@cache
def _madvise() -> Any:
    """Return the C library's ``madvise``, or None if there is none that knows huge pages."""
    function = getattr(ctypes.CDLL(None), "madvise", None) if sys.platform == "linux" else None
    if function is not None:
        function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function


def use_huge_pages(memory: memoryview) -> None:
    """Ask for huge pages for writable memory that is about to be filled.  Changes nothing but speed."""
    madvise = _madvise()
    if madvise is None:
        return
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (start + len(memory) - first) // mmap.PAGESIZE * mmap.PAGESIZE
    if length > 0:
        madvise(first, length, _MADV_HUGEPAGE)


def private_memory(size: int) -> memoryview:
    """Return ``size`` writable bytes, in huge pages if they are many."""
    if size < HUGE_FROM_BYTES:
        return memoryview(bytearray(size))
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # the kernel has none
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)
