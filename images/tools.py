"""Programs of the machine that makes images: whether they are there, and running them."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from images import ImageError

# The package of Debian that each is in.
PACKAGES = {
    "bzip2": "bzip2",
    "grub-editenv": "grub-common",
    "grub-mkimage": "grub-common grub-efi-amd64-bin",
    "mcopy": "mtools",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.vfat": "dosfstools",
    "mksquashfs": "squashfs-tools",
    "mmdebstrap": "mmdebstrap",
    "rauc": "rauc",
    "systemd-repart": "systemd",
    "tar": "tar",
    "unshare": "util-linux",
}
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
_LAST_LINES = 30


def need(*programs: str) -> None:
    """Make sure that programs are there, and that this may make file systems.

    Raises:
        ImageError: They are not; the message names the packages.
    """
    missing = [each for each in programs if shutil.which(each, path=_path()) is None]
    if missing:
        packages = " ".join(sorted({PACKAGES[each] for each in missing}))
        raise ImageError(f"not installed: {', '.join(missing)}; apt install {packages}")
    if os.geteuid() != 0:
        raise ImageError("files of an image have other owners: run this as root")


def run(
    command: Sequence[str | Path], timeout_s: float, environment: Mapping[str, str] | None = None
) -> None:
    """Run a program to its end; what it says is shown if it fails.

    Raises:
        ImageError: It fails, or does not end.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            timeout=timeout_s,
            env={**os.environ, "PATH": _path(), "LC_ALL": "C.UTF-8", **(environment or {})},
        )
    except subprocess.TimeoutExpired:
        raise ImageError(f"{words[0]}: did not end within {timeout_s:.0f} s") from None
    if done.returncode != 0:
        said = "\n".join(done.stdout.strip().splitlines()[-_LAST_LINES:])
        raise ImageError(f"{shlex.join(words)[:300]} failed:\n{said}")


@contextmanager
def step(what: str) -> Generator[None, None, None]:
    """Show what is done, and how long it took."""
    print(f"{what} ...", file=sys.stderr, flush=True)
    began = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:{SBIN}"
