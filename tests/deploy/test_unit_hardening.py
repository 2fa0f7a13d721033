"""What systemd itself says of the unit, without running it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from deploy.unit_files import DROP_INS, NODES, UNIT, install

MOST_EXPOSED = 20
"""In tenths: 2.0."""

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None,
    reason="systemd-analyze is not installed: make systemd",
)


@pytest.mark.parametrize("drop_ins", [(), *((name,) for name in sorted(DROP_INS))])
def test_it_is_hardened(tmp_path: Path, drop_ins: tuple[str, ...]) -> None:
    unit = install(tmp_path, *drop_ins)
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSED}", str(unit)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout[-200:] + done.stderr


def test_every_line_is_understood(tmp_path: Path) -> None:
    unit = install(tmp_path, *DROP_INS)
    program = "ExecStart=/opt/appliance/current/release/bin/appliance"  # not on this machine
    unit.write_text(UNIT.read_text().replace(program, "ExecStart=/bin/true"))
    nodes = shutil.copy(NODES, tmp_path)
    Path(nodes).write_text(Path(nodes).read_text().replace("/usr/bin/nvidia-modprobe", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(unit), nodes],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={"SYSTEMD_UNIT_PATH": f"{tmp_path}:/lib/systemd/system"},
    )
    about_ours = [line for line in done.stderr.splitlines() if str(tmp_path) in line]
    assert about_ours == []
    assert done.returncode == 0, done.stderr
