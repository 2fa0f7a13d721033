"""When an image's health gate marks a slot good or bad: programs are played, time is counted."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from images.root import X86

GATE = X86 / "root/usr/local/sbin/health-gate"
# Each lies before what it stands for in PATH. `uptime` grows by what was slept, and by a second
# whenever the appliance is asked; `script` has an answer for each time, the last for all others.
PLAYED = {
    "sleep": 'read -r now <uptime; echo $((now + $1)) >uptime; [ "$now" -lt 5000 ]',
    "appliance": """
        read -r now <uptime; echo $((now + 1)) >uptime
        read -r answer <script; [ "$(wc -l <script)" = 1 ] || sed -i 1d script
        if [ "$answer" = restart ]; then echo 1 >restarts; answer=ready; fi
        echo "$answer"; [ "$answer" = ready ]""",
    "systemctl": """
        echo "systemctl $*" >>calls
        case $1 in is-failed) [ -e failed ] ;; show) cat restarts ;; esac""",
    "rauc": 'echo "rauc $*" >>calls; [ ! -e full ] || { rm full; exit 1; }',
    "grub-editenv": """
        if [ "$2" = list ]; then cat grubenv; else echo "GRUB: $3" >>calls; fi; [ ! -e lost ]""",
}
OTHER_GOOD = "A_OK=1\nA_TRY=0\nB_OK=1\nB_TRY=0\n"
OTHER_EMPTY = "A_OK=1\nA_TRY=0\nB_OK=0\nB_TRY=0\n"


def run_gate(
    place: Path,
    script: str,
    *files: str,
    grubenv: str = OTHER_GOOD,
    cmdline: str = "ro rauc.slot=A quiet\n",
) -> tuple[str, str]:
    """Run it until it ends, or 5000 s have passed; return what it said, and whom it called.

    Args:
        script: What `appliance status` answers, time after time; `restart`: ready, and anew.
        files: Which are there: `failed`, the unit is; `full`, so is the disk, once; `lost`, GRUB's
            block cannot be written.
        cmdline: Of the kernel; it says that this is slot A.
    """
    text = GATE.read_text()
    played = (("/opt/appliance/current/release/bin/", ""), ("/proc/", ""), ("/run/", ""))
    for path, instead in (*played, ("/efi/grub/", ""), ("/etc/os-release", "os-release")):
        assert path in text
        text = text.replace(path, instead)
    for name, body in PLAYED.items():
        (place / name).write_text(f"#!/bin/sh\n{body}\n")
        (place / name).chmod(0o755)
    written = {"uptime": "10\n", "cmdline": cmdline, "restarts": "0\n"}
    written |= {"os-release": "IMAGE_VERSION=1.0\n", "script": script.replace(" ", "\n") + "\n"}
    for name, content in (written | {"grubenv": grubenv, "calls": ""}).items():
        (place / name).write_text(content)
    for name in files:
        (place / name).touch()
    done = subprocess.run(
        ["sh", "-c", text],
        cwd=place,
        env={"PATH": f"{place}:{os.environ['PATH']}", "READY_WITHIN_S": "900", "READY_FOR_S": "30"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    calls = (place / "calls").read_text().splitlines()
    return done.stdout, "; ".join(
        call for call in calls if not call.startswith(("systemctl show", "systemctl is-failed"))
    )


def uptime_s(place: Path) -> int:
    return int((place / "uptime").read_text())


def test_it_is_good_once_it_was_ready_for_a_while(tmp_path: Path) -> None:
    said, called = run_gate(tmp_path, "starting starting ready")
    assert said == "health-gate: slot A, version 1.0: good\n"
    assert called == "rauc status mark-good booted"
    assert 10 + 10 + 30 <= uptime_s(tmp_path) <= 10 + 10 + 45


@pytest.mark.parametrize("script", ["ready ready degraded ready", "ready ready restart ready"])
def test_ready_for_a_moment_does_not_count(tmp_path: Path, script: str) -> None:
    said, called = run_gate(tmp_path, script)
    assert (said.count("good"), called) == (1, "rauc status mark-good booted")
    assert uptime_s(tmp_path) >= 10 + 10 + 5 + 30


@pytest.mark.parametrize("script", ["starting", "ready ready degraded", "ready restart degraded"])
def test_what_does_not_stay_ready_in_time_is_left_for_the_other(
    tmp_path: Path, script: str
) -> None:
    said, called = run_gate(tmp_path, script)
    assert said.endswith("bad; restarting into slot B\n")
    assert called == "rauc status mark-bad booted; systemctl --no-block reboot"
    assert 910 <= uptime_s(tmp_path) <= 930


@pytest.mark.parametrize("tries", ["1", "2"])
def test_another_that_was_not_called_good_since_its_last_boot_is_gone_to(
    tmp_path: Path, tries: str
) -> None:
    tried = OTHER_GOOD.replace("B_TRY=0", f"B_TRY={tries}")
    said, _ = run_gate(tmp_path, "refused", "failed", grubenv=tried)
    assert said.endswith("bad; restarting into slot B\n")


def test_another_that_grub_does_not_take_is_not_gone_to(tmp_path: Path) -> None:
    tried = OTHER_GOOD.replace("B_TRY=0", "B_TRY=3")
    said, called = run_gate(tmp_path, "refused " * 3 + "ready", "failed", grubenv=tried)
    assert "this one stays up" in said
    assert called == "GRUB: A_TRY=1; rauc status mark-good booted"


def test_a_unit_that_has_failed_is_not_waited_for(tmp_path: Path) -> None:
    _, called = run_gate(tmp_path, "refused", "failed")
    assert called == "rauc status mark-bad booted; systemctl --no-block reboot"
    assert uptime_s(tmp_path) < 20


def test_a_verdict_that_cannot_be_written_down_does_not_keep_it(tmp_path: Path) -> None:
    said, called = run_gate(tmp_path, "refused", "failed", "full")
    assert "GRUB counts its boots" in said
    assert called.endswith("systemctl --no-block reboot")


def test_with_nowhere_to_go_it_waits_and_is_good_when_it_is_ready(tmp_path: Path) -> None:
    waits = " ".join(["refused"] * 300)
    said, called = run_gate(tmp_path, f"{waits} ready", "failed", grubenv=OTHER_EMPTY)
    assert said.count("this one stays up") == 1
    assert said.endswith("slot A, version 1.0: good\n")
    assert called == "GRUB: A_TRY=1; rauc status mark-good booted"
    assert uptime_s(tmp_path) > 300 * 5


def test_a_bad_one_that_stays_up_has_not_been_tried(tmp_path: Path) -> None:
    bad = OTHER_EMPTY.replace("A_OK=1", "A_OK=0")
    _, called = run_gate(tmp_path, "refused", "failed", grubenv=bad)
    assert called == "GRUB: A_TRY=0"


def test_it_stays_up_where_that_cannot_be_written_down(tmp_path: Path) -> None:
    said, called = run_gate(
        tmp_path, "refused " * 9 + "ready", "failed", "lost", grubenv=OTHER_EMPTY
    )
    assert "that cannot be written down" in said
    assert called == "GRUB: A_TRY=1; rauc status mark-good booted"


def test_good_is_written_down_as_soon_as_it_can_be(tmp_path: Path) -> None:
    said, called = run_gate(tmp_path, "ready", "full")
    assert called == "rauc status mark-good booted; rauc status mark-good booted"
    assert said.endswith("trying again\nhealth-gate: slot A, version 1.0: good\n")


def test_a_slot_that_is_not_named_is_nobodys(tmp_path: Path) -> None:
    said, called = run_gate(tmp_path, "ready", cmdline="ro quiet\n")
    assert "slot unknown, version 1.0: the kernel was not told: no rauc.slot" in said
    assert called == ""
