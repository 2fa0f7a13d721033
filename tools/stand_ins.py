"""Libraries that export names and do nothing, and wheels that could not be made without them.

```
python -m tools.stand_ins pycuda DIRECTORY --python python3.12 --cuda /usr/local/cuda
python -m tools.stand_ins cublas DIRECTORY --tensorrt tensorrt-8.5.3.1-cp310-none-....whl
```

`pycuda` builds its wheel where there is no driver: it is linked with a stand-in for `libcuda.so.1`,
and finds the real one on the box. `cublas` makes a wheel that lies beside TensorRT 8, whose plugins
want cuBLAS and cuDNN to be there: a gigabyte that engines built without them never call.

Needs a C compiler, and `readelf`; for pycuda, CUDA's headers and nvcc.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from tools.wheel_files import write_wheel

CUBLAS = ("libcublas.so.11", "libcublasLt.so.11", "libcudnn.so.8")
PLUGINS = "tensorrt/libnvinfer_plugin.so.8"
_NO_DEVICE = 100
"""What each function returns: CUDA's "no device", and an error to the others."""


def stand_in(soname: str, names: Sequence[str], path: Path, *, versioned: bool) -> None:
    """Make a library that exports functions.

    Args:
        versioned: Its names have the library's as their version.

    Raises:
        CalledProcessError: The compiler has said why not.
    """
    with tempfile.TemporaryDirectory() as work:
        source, versions = Path(work) / "s.c", Path(work) / "s.map"
        lines = [f"int {name}(void) {{ return {_NO_DEVICE}; }}" for name in sorted(set(names))]
        source.write_text("\n".join(lines) + "\n")
        versions.write_text(f"{soname} {{ global: *; }};\n")
        command = ["cc", "-shared", "-fPIC", "-w", "-fno-builtin", f"-Wl,-soname,{soname},-s"]
        if versioned:
            command.append(f"-Wl,--version-script={versions}")
        subprocess.run([*command, "-o", str(path), str(source)], check=True)


def driver_names(header: str) -> set[str]:
    """Return the functions of `cuda.h`, under all names that programs know them by."""
    declared = set(re.findall(r"\b(cu[A-Z]\w*)\s*\(", header))
    renamed = re.findall(r"#define\s+cu\w+\s+(?:__CUDA_API_PT\w+\()?(cu\w+)\)?", header)
    return {name for name in declared.union(renamed) if not name.endswith(("_ptds", "_ptsz"))}


def wanted_names(symbols: str, soname: str) -> set[str]:
    """Return what a library wants of another, from what `readelf --dyn-syms` says."""
    return set(re.findall(r" UND (\w+)@" + re.escape(soname) + r"\b", symbols))


def pycuda(directory: Path, python: str, cuda: Path) -> None:
    """Build pycuda's wheel.

    Raises:
        CalledProcessError: It cannot be built; why has been said.
    """
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        names = driver_names((cuda / "include" / "cuda.h").read_text())
        stand_in("libcuda.so.1", sorted(names), work / "libcuda.so.1", versioned=False)
        (work / "libcuda.so").symlink_to("libcuda.so.1")
        pip = [python, "-m", "pip"]
        quiet = ["--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run(
            [*pip, "download", *quiet, "--no-binary", "pycuda", "--dest", name, "pycuda"],
            check=True,
        )
        [archive] = work.glob("pycuda-*.tar.gz")
        subprocess.run(["tar", "-xf", str(archive), "-C", name], check=True)  # noqa: S607
        [source] = (path for path in work.glob("pycuda-*") if path.is_dir())
        (source / "siteconf.py").write_text(
            f"CUDA_ROOT = {str(cuda)!r}\nCUDADRV_LIB_DIR = [{name!r}]\n"
            "CUDA_ENABLE_CURAND = False\nCUDA_ENABLE_GL = False\n"
        )
        subprocess.run(
            [*pip, "wheel", *quiet, "--wheel-dir", str(directory), str(source)],
            check=True,
            env={**os.environ, "LDFLAGS": "-Wl,-s", "CFLAGS": "-w"},
        )


def cublas(directory: Path, tensorrt: Path) -> Path:
    """Make the wheel that lies beside TensorRT 8; return it."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        with zipfile.ZipFile(tensorrt) as wheel:
            wheel.extract(PLUGINS, work)
        symbols = subprocess.run(
            ["readelf", "-W", "--dyn-syms", str(work / PLUGINS)],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        files: dict[str, bytes] = {}
        for soname in CUBLAS:
            names = sorted(wanted_names(symbols, soname))
            stand_in(soname, names, work / soname, versioned=True)
            files[f"tensorrt/{soname}"] = (work / soname).read_bytes()
    return _wheel(directory, "cublas_stand_ins", files)


def _wheel(directory: Path, package: str, files: dict[str, bytes]) -> Path:
    """Write a wheel of files for this kind of machine."""
    tag = "py3-none-manylinux_2_17_x86_64"
    about = f"{package}-1.dist-info"
    return write_wheel(
        directory / f"{package}-1-{tag}.whl",
        {
            **files,
            f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n".encode(),
            f"{about}/WHEEL": (
                f"Wheel-Version: 1.0\nGenerator: stand_ins\nRoot-Is-Purelib: false\nTag: {tag}\n"
            ).encode(),
        },
    )


def main() -> int:
    """Make a wheel; 0 if it is there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("pycuda", "cublas"))
    parser.add_argument("directory", type=Path, metavar="DIRECTORY", help="gets the wheel")
    parser.add_argument("--python", default="python3.12", help="that of the box (python3.12)")
    parser.add_argument("--cuda", type=Path, default=Path("/usr/local/cuda"), metavar="DIR")
    parser.add_argument("--tensorrt", type=Path, metavar="WHEEL")
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    try:
        if arguments.what == "pycuda":
            pycuda(arguments.directory, arguments.python, arguments.cuda)
        elif arguments.tensorrt is None:
            parser.error("cublas: --tensorrt is missing")
        else:
            print(cublas(arguments.directory, arguments.tensorrt))
    except (subprocess.CalledProcessError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
