"""`python tests/release_installs.py RELEASE`: each wheelhouse for this machine, without a network.

Slow, and not among the tests: `make release` first. For each Python that is here, the release is
installed by its own installer in a network namespace with nothing in it, then served from, and
installed once more, which changes nothing. `PYTHONS` names the Pythons (python3.10 ...),
`ALLOWED_SIGNERS` the file of who may sign; without it the signature is not checked.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OFFLINE = ["unshare", "--net", "--map-root-user"]
CONFIGURATION = '[models]\ndirectory = "{models}"\n'
# What was compiled is there, and works.
PROOF = """
import importlib.machinery, hdrh.histogram, simplejpeg, soundfile
import appliance.sessions.fastpath.arrivals as arrivals
assert arrivals.__file__.endswith(importlib.machinery.EXTENSION_SUFFIXES[0]), arrivals.__file__
histogram = hdrh.histogram.HdrHistogram(1, 100_000, 2)
histogram.record_value(7)
assert histogram.decode_and_add(histogram.encode()) is None
assert histogram.get_total_count() == 2
"""


def run(*command: str | Path) -> str:
    done = subprocess.run([*OFFLINE, *command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"failed: {' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def tried(release: Path, python: str, tag: str) -> str:
    """Install for one Python; return what is to be said of it."""
    with tempfile.TemporaryDirectory(prefix="robot-") as root:
        command = [python, "-I", str(release / "install_release.py"), str(release)]
        signed = (release / "SHA256SUMS.sig").exists()
        allowed = os.environ.get("ALLOWED_SIGNERS")
        trust = [f"--allowed-signers={allowed}"] if signed and allowed else ["--allow-unsigned"]
        command += [f"--root={root}", *trust]
        began = time.monotonic()
        first = run(*command)
        took = time.monotonic() - began
        final = Path(first.removeprefix("installed ").strip())
        began = time.monotonic()
        again = run(*command)
        took_again = time.monotonic() - began
        assert again == f"unchanged {final}\n", again
        models = Path(root, "models")
        models.mkdir()
        configuration = Path(root, "appliance.toml")
        configuration.write_text(CONFIGURATION.format(models=models))
        version = run(final / "bin/appliance", "--version").strip()
        run(final / "bin/appliance", "check-config", configuration)
        run(final / "bin/python", "-I", "-c", PROOF)
        size = sum(path.lstat().st_size for path in final.rglob("*") if not path.is_symlink())
        return (
            f"{tag}  {version}: installed in {took:.1f} s, again in {took_again:.1f} s,"
            f" {size / 1e6:.0f} MB"
        )


def main() -> int:
    if len(sys.argv) != 2:
        sys.exit("which release? run `make release`, then `make test-release`")
    release = Path(sys.argv[1]).resolve()
    pattern = re.compile(rf"appliance-.*-{platform.machine()}-(cp\d+)\.tar")
    found = sorted(match[1] for path in release.iterdir() if (match := pattern.match(path.name)))
    named = os.environ.get("PYTHONS", "").split() or [f"python{t[2]}.{t[3:]}" for t in found]
    for python in named:
        asked = shutil.which(python) and subprocess.run(
            [python, "-c", "import sys; print('cp%d%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
        )
        tag = asked.stdout.strip() if asked and asked.returncode == 0 else ""
        if tag in found:
            print(tried(release, python, tag), flush=True)
            found.remove(tag)
    for tag in found:
        print(f"{tag}  not tried: its Python is not here")
    return 0


if __name__ == "__main__":
    sys.exit(main())
