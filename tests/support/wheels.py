"""Small wheels, and releases of them, for tests."""

from __future__ import annotations

import shutil
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

PYTHON_TAG = f"cp{sys.version_info.major}{sys.version_info.minor}"


def write_wheel(
    directory: Path,
    name: str,
    files: Mapping[str, str | bytes] | None = None,
    *,
    version: str = "1.0",
    tag: str = "py3-none-any",
    requires: Sequence[str] = (),
    scripts: Mapping[str, str] | None = None,
) -> Path:
    """A whole wheel."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}-{version}-{tag}.whl"
    about = f"{name}-{version}.dist-info"
    said = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", "License: MIT"]
    said += ["Provides-Extra: server", "Provides-Extra: images"] * (name == "appliance")
    said += [f"Requires-Dist: {required}" for required in requires]
    entries = {
        **(files or {f"{name}.py": f"WHO = {name!r}\n"}),
        f"{about}/METADATA": "\n".join(said) + "\n",
        f"{about}/WHEEL": f"Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    if scripts:
        lines = [f"{script} = {target}" for script, target in scripts.items()]
        entries[f"{about}/entry_points.txt"] = "\n".join(["[console_scripts]", *lines]) + "\n"
    entries[f"{about}/RECORD"] = "".join(f"{entry},,\n" for entry in (*entries, f"{about}/RECORD"))
    with zipfile.ZipFile(path, "w") as archive:
        for entry, data in entries.items():
            archive.writestr(entry, data)
    return path


def write_house(house: Path, uv: str) -> Path:
    """What a wheelhouse holds before it is packed: an appliance that only says who it is.

    Args:
        uv: The installer that goes along, a script.
    """
    wheels = house / "wheels"
    shutil.rmtree(house, ignore_errors=True)
    write_wheel(
        wheels,
        "appliance",
        {
            "appliance/__init__.py": "",
            "appliance/app.py": "import hdrh\n",
            "appliance/cli.py": "def main():\n    print('appliance 1.0')\n",
        },
        requires=["hdrh>=1; extra == 'server'", "onnxruntime; extra == 'server'"],
        scripts={"appliance": "appliance.cli:main"},
    )
    write_wheel(wheels, "hdrh")
    write_wheel(wheels, "onnxruntime")
    write_wheel(wheels, "uv", {"uv-1.0.data/scripts/uv": uv})
    return house
