"""The process that writes a recording, from outside."""

from __future__ import annotations

import psutil


def writer_of(parent: int, path: object) -> int:
    """Return the child of a process that has a recording's file open."""
    partial = f"{path}.partial"
    for child in psutil.Process(parent).children():
        if any(file.path == partial for file in child.open_files()):
            return child.pid
    raise AssertionError(f"nobody writes {partial}")
