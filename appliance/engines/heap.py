"""What the C library does with memory that was freed: it is kept for the next batch.

glibc gives large blocks back to the kernel, which hands them out again page by page, each one
cleared when it is first touched. Batches of images, and models that compute with them, can spend
more time on that than on their work.
"""

from __future__ import annotations

import ctypes

KEPT_BYTES = 1 << 28
"""Free memory kept at the end of the heap."""

LARGEST_KEPT_BYTES = 1 << 25
"""Larger blocks go back to the kernel at once; glibc takes no higher limit."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

_libc = ctypes.CDLL(None)


def keep_freed() -> None:
    """From now on, keep what is freed; a C library without `mallopt` goes on as before."""
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        _libc.mallopt(_M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)


def give_back() -> None:
    """Give back what is free now: after work that does not come again, such as loading."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)
