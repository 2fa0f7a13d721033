"""The SDK's wheel in fresh environments, oldest and newest, against one running appliance.

make test-sdk-versions
PYTHONS="/opt/python3.10 python3.13" make test-sdk-versions    # where they are not on the PATH
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from support.box import box
from support.fleet_models import add_camera_policy

HERE = Path(__file__).parent
OLDEST = ("numpy==1.21.2", "pyzmq==25.1.0", "protobuf==5.29.1", "attrs==22.2.0")
MATRIX = (
    ("oldest", "3.10", OLDEST),
    ("oldest, images", "3.10", (*OLDEST, "pillow==10.3.0", "simplejpeg==1.8.1")),
    ("protobuf 5", "3.12", ("protobuf<6",)),
    ("protobuf 6", "3.12", ("protobuf>=6,<7",)),
    ("protobuf 7", "3.12", ("protobuf>=7,<8",)),
    ("newest", "3.13", ()),
    ("newest, images", "3.13", ("pillow", "simplejpeg")),
)
"""What it is called, which Python, and what is installed with the wheel."""


def interpreters() -> dict[str, str]:
    """Return the Pythons that PYTHONS names, or those on the PATH, by version."""
    named = os.environ.get("PYTHONS", "").split()
    found: dict[str, str] = {}
    for name in named or sorted({f"python{version}" for _, version, _ in MATRIX}):
        path = shutil.which(name)
        asked = [path or name, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        said = subprocess.run(asked, capture_output=True, text=True, check=False) if path else None
        if path and said is not None and said.returncode == 0:
            found[said.stdout.strip()] = path
        elif named:
            print(f"PYTHONS: {name} cannot be run", file=sys.stderr)
    return found


def wheel(directory: Path) -> str:
    """Build the wheel, once."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(directory)]
    pure = {**os.environ, "APPLIANCE_PURE": "1"}
    subprocess.run([*command, str(HERE.parent)], env=pure, check=True)
    (built,) = directory.glob("*.whl")
    return str(built)


def run(python: str, directory: Path, requirements: list[str], address: str) -> bool:
    """Install into a fresh environment and use it there; return whether all went well."""
    own = str(directory / "bin" / "python")
    install = [own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    steps = (
        [python, "-m", "venv", str(directory)],
        [*install, "--only-binary=:all:", *requirements],
        [own, "-I", str(HERE / "sdk_alone.py"), address],
    )
    return all(subprocess.run(step, check=False, timeout=600).returncode == 0 for step in steps)


def main() -> int:
    """Return 0 if what could be run went well, and something could."""
    pythons = interpreters()
    failed: list[str] = []
    skipped: list[str] = []
    with tempfile.TemporaryDirectory(prefix="sdk-versions-") as name:
        root = Path(name)
        built = wheel(root / "dist")
        add_camera_policy(root / "models")
        with box(root / "models") as appliance:
            for number, (title, version, pins) in enumerate(MATRIX):
                print(f"{title} (Python {version}): ", end="", flush=True)
                if version not in pythons:
                    print("SKIPPED, there is no such Python; name one in PYTHONS", flush=True)
                    skipped.append(title)
                elif not run(
                    pythons[version], root / str(number), [built, *pins], appliance.address
                ):
                    print("FAILED", flush=True)
                    failed.append(title)
    print(f"failed: {', '.join(failed) or 'none'}; skipped: {', '.join(skipped) or 'none'}")
    return 1 if failed or len(skipped) == len(MATRIX) else 0


if __name__ == "__main__":
    sys.exit(main())
