"""Debian, by mmdebstrap: fetched once for each list of packages, and kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from images import ImageError
from images.provision import ISOLATED, made
from images.tools import need, run, step

SUITE = "bookworm"
SOURCES = (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list"))
FETCH_S = 3600  # of another architecture: each program of it is emulated


def debian(
    architecture: str, packages: Iterable[str], directory: Path, sources: Path | None = None
) -> Path:
    """Return Debian with packages; fetched if it is not there.

    Args:
        architecture: As Debian calls it: amd64, arm64.
        directory: Where it is kept.
        sources: Where it is fetched from, as apt wants it; None: as this machine's packages.

    Raises:
        ImageError: It cannot be fetched.
    """
    names = sorted(packages)
    sources = sources or next((path for path in SOURCES if path.exists()), None)
    if sources is None:
        raise ImageError("this machine has no package sources of Debian; name a file: --sources")
    digest = hashlib.sha256(json.dumps([SUITE, names, sources.read_text()]).encode())
    base = directory / f"debian-{architecture}-{digest.hexdigest()[:12]}"
    if not base.exists():
        need("mmdebstrap", "unshare")
        what = f"fetching {SUITE} for {architecture} with {len(names)} packages"
        with step(what), made(base) as partial:
            command = [*ISOLATED, "mmdebstrap", "--variant=minbase", "--mode=root"]
            command += [f"--architectures={architecture}", f"--include={','.join(names)}"]
            run([*command, "--format=directory", SUITE, partial, sources], FETCH_S)
    return base
