"""Build hook, for wheels and editable installs: what is made from sources and never committed.

- `appliance/wire/pb/` from `proto/`. protoc is pinned (see `[build-system]`) to the 5.x line: its
  output loads under the protobuf runtimes 5, 6 and 7.
- The compiled room, `appliance/sessions/fastpath/`, by Cython and a C compiler. Where there is no
  compiler, or APPLIANCE_PURE is set, it is left out: the package works without, only slower. The
  SDK never needs it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PROTOBUF = Path("appliance/wire/pb")
COMPILED = Path("appliance/sessions/fastpath")
PURE = "APPLIANCE_PURE"
SUFFIX = "SETUPTOOLS_EXT_SUFFIX"  # what setuptools calls its output when it compiles for another
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,  # each index is checked where it comes from
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": False,  # divide as Python does
    "binding": False,
}


class BuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Makes both."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        generate(root)
        build_data["artifacts"].append(f"/{PROTOBUF}/*")
        if self.target_name != "wheel" or os.environ.get(PURE):
            return
        if compile_room(root):
            # Not what was compiled for other Pythons, or other machines, in the same tree.
            suffix = os.environ.get(SUFFIX) or sysconfig.get_config_var("EXT_SUFFIX")
            build_data["artifacts"].append(f"/{COMPILED}/*{suffix}")
            build_data["pure_python"] = False
            build_data["infer_tag"] = True


def generate(root: Path) -> None:
    """Write `*_pb2.py` and `*_pb2.pyi` for every `proto/*.proto` below `root`."""
    from grpc_tools import protoc

    sources = sorted((root / "proto").glob("*.proto"))
    if not sources:  # an sdist that already holds the generated code
        return
    target = root / PROTOBUF
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        # protoc derives Python import paths from proto paths, so lay them out as the package.
        tree = Path(scratch) / PROTOBUF
        tree.mkdir(parents=True)
        names = [str(PROTOBUF / Path(shutil.copy(source, tree)).name) for source in sources]
        out = f"{scratch}/out"
        Path(out).mkdir()
        arguments = ["protoc", f"-I{scratch}", f"--python_out={out}", f"--pyi_out={out}", *names]
        if protoc.main(arguments) != 0:
            raise RuntimeError(f"protoc failed: {' '.join(arguments)}")
        for generated in (Path(out) / PROTOBUF).iterdir():
            shutil.copy(generated, target / generated.name)
    (target / "__init__.py").write_text('"""Generated from proto/ by the build."""\n')


def compile_room(root: Path) -> bool:
    """Compile every `*.pyx` of the compiled room in place; return whether that could be done.

    What is wrong with the sources is raised as an error of Cython or setuptools.
    """
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension

    missing = _missing()
    if missing:
        print(f"{COMPILED} is left out: there is no {missing}", file=sys.stderr)
        return False
    before = Path.cwd()
    os.chdir(root)  # setuptools looks for the package from where it runs
    try:
        with tempfile.TemporaryDirectory() as scratch:
            extensions = cythonize(
                [
                    Extension(".".join(source.with_suffix("").parts), [str(source)])
                    for source in sorted(COMPILED.glob("*.pyx"))
                ],
                build_dir=scratch,
                compiler_directives=DIRECTIVES,
                quiet=True,
            )
            command = Distribution({"ext_modules": extensions}).get_command_obj("build_ext")
            command.build_temp = scratch
            command.inplace = True
            command.parallel = os.cpu_count()
            command.ensure_finalized()
            command.run()
    finally:
        os.chdir(before)
    return True


def _missing() -> str:
    """Return what is missing to compile, if anything is, by trying."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    if shutil.which(compiler[0]) is None:
        return f"C compiler ({compiler[0]})"
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "trial.c")
        source.write_text("#include <Python.h>\nint trial(void) { return 0; }\n")
        include = sysconfig.get_path("include")
        command = [*compiler, "-I", include, "-c", str(source), "-o", f"{scratch}/trial.o"]
        tried = subprocess.run(command, capture_output=True, text=True, check=False)
    if tried.returncode == 0:
        return ""
    return f"C compiler that finds Python.h (Debian: gcc, python3-dev): {tried.stderr[-500:]}"
