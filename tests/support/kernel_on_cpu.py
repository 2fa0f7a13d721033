"""Compiles a kernel's text for the CPU; see `kernel_on_cpu.c`."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from functools import cache
from pathlib import Path

SHIM = Path(__file__).with_suffix(".c")


def build(text: str, directory: Path) -> Path:
    """Return a library with the function `launch`."""
    source, library = directory / "images.cu", directory / "kernel.so"
    source.write_text(text)
    command = ["cc", "-O1", "-shared", "-fPIC", "-Wall", "-Werror", "-ffp-contract=off"]
    command += [f'-DIMAGES="{source}"', "-o", str(library), str(SHIM)]
    subprocess.run(command, check=True)
    return library


@cache
def loaded(text: str) -> ctypes.CDLL:
    """Return the library in this process."""
    with tempfile.TemporaryDirectory() as name:
        return ctypes.CDLL(str(build(text, Path(name))))
