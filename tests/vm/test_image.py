"""The image, from its own disk: it boots, takes updates, and leaves those that are none.

One box lives through all of this, in this order.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from appliance import Connection
from vm.box import STICK, Box, booted
from vm.workshop import Workshop

APPLIANCE = "/opt/appliance/current/release/bin/appliance"
# From the box's own disk: block by block, the stick is slow.
UPDATE = "/data/update.raucb"
READY_S, INSTALL_S, ANSWER_MS = 1200.0, 1200.0, 60_000.0
# What it says on its way up: the kernel, systemd, and the last thing before the appliance.
MOMENTS = ("rauc.slot=B", "Hostname set to", "box-identity")
BROKEN = (
    "    sys.setswitchinterval(SWITCH_INTERVAL_S)\n    set_time_slice(SERVING_NS)\n",
    '    raise RuntimeError("it never serves")\n',
)


@pytest.fixture(scope="module")
def box(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """A box with 1.0.0, whose disk is larger than its image."""
    disk = workshop.image("1.0.0")
    subprocess.run(["truncate", "--size=+1G", str(disk)], check=True)
    with booted(disk, workshop.directory, workshop.ssh, tmp_path_factory.mktemp("box")) as box:
        yield box


@pytest.fixture(scope="module")
def update(workshop: Workshop) -> Path:
    """2.0.0, signed by whom the box trusts; it was by somebody else before."""
    return workshop.signed_anew(workshop.directory / "appliance-2.0.0.raucb", "somebody")


def status(box: Box) -> dict[str, object]:
    return json.loads(box.run(APPLIANCE, "status", "--json").stdout)


def slots(box: Box) -> dict[str, str]:
    """Return whether each slot is good, and which one is booted."""
    found = json.loads(box.run("rauc", "status", "--output-format=json").stdout)
    states = (slot for each in found["slots"] for slot in each.values())
    return {"booted": found["booted"]} | {each["bootname"]: each["boot_status"] for each in states}


def install(box: Box, bundle: Path) -> subprocess.CompletedProcess[str]:
    box.plug_in()
    box.run("cp", f"{STICK}/{bundle.name}", UPDATE, timeout_s=INSTALL_S)
    return box.run("rauc", "install", UPDATE, check=False, timeout_s=INSTALL_S)


def test_it_boots_and_waits_for_its_keys(box: Box) -> None:
    took_s = box.wait_said("slot A, version 1.0.0: there is no good slot to go to", READY_S)
    print(f"\nup, and without keys, after {took_s:.0f} s")
    assert slots(box) == {"booted": "A", "A": "bad", "B": "bad"}


def test_with_keys_it_is_ready_and_answers_a_robot(box: Box, workshop: Workshop) -> None:
    began = time.monotonic()
    key = workshop.give_keys(box)
    print(f"\nkeys made and fetched by the playbook in {time.monotonic() - began:.0f} s")
    with Connection(f"127.0.0.1:{box.door}", keys=key) as connection:
        model = connection.model("mlp", latency_budget_ms=ANSWER_MS)
        model.observe(x=np.ones(8, np.float32))
        result = model.get_result(timeout_ms=ANSWER_MS)
    assert result is not None
    assert result["y"].shape[-1] == 4
    took_s = box.wait_said("health-gate: slot A, version 1.0.0: good", READY_S)
    print(f"marked good {took_s:.0f} s later")
    assert status(box)["state"] == "ready"
    assert slots(box) == {"booted": "A", "A": "good", "B": "bad"}
    assert box.run("systemctl", "--failed", "--plain", "--no-legend").stdout == ""
    assert (
        box.run("systemctl", "is-active", "nftables", "chrony", "systemd-networkd").returncode == 0
    )


def test_a_hang_would_be_noticed(box: Box) -> None:
    device = box.run("systemctl", "show", "--value", "--property=WatchdogDevice").stdout.strip()
    assert device.startswith("/dev/watchdog")
    state = box.run("cat", "/sys/class/watchdog/watchdog0/state").stdout.strip()
    assert state == "active"


def test_what_both_slots_share_takes_the_whole_disk(box: Box) -> None:
    size = int(box.run("findmnt", "--noheadings", "--bytes", "--output=SIZE", "/data").stdout)
    assert size > 1.3e9


def test_a_bundle_signed_by_another_key_is_refused(box: Box, workshop: Workshop) -> None:
    done = install(box, workshop.bundle("2.0.0", signer="somebody"))
    assert done.returncode != 0
    assert "signature verification failed" in (done.stdout + done.stderr).lower()
    assert slots(box) == {"booted": "A", "A": "good", "B": "bad"}


def test_a_slot_whose_power_goes_three_times_before_it_is_ready_is_left(
    box: Box, update: Path
) -> None:
    done = install(box, update)
    assert done.returncode == 0, done.stderr
    box.run("systemctl", "reboot", check=False)
    for moment in MOMENTS:
        box.wait_said(moment, READY_S)
        box.cut_power()
        box.skip_said()
        box.switch_on()
    took_s = box.wait_said("health-gate: slot A, version 1.0.0: good", READY_S)
    print(f"\nback on slot A {took_s:.0f} s after the last time that power came")
    assert (status(box)["state"], slots(box)["booted"]) == ("ready", "A")
    grub = box.run("grub-editenv", "/efi/grub/grubenv", "list").stdout.splitlines()
    assert {"A_OK=1", "A_TRY=0", "B_TRY=3"} <= {*grub}


def test_an_update_is_good_once_it_is_ready(box: Box, update: Path) -> None:
    identity = box.run("cat", "/etc/machine-id", "/data/ssh/ssh_host_ed25519_key.pub").stdout
    done = install(box, update)
    assert done.returncode == 0, done.stderr
    box.run("systemctl", "reboot", check=False)
    took_s = box.wait_said("health-gate: slot B, version 2.0.0: good", READY_S)
    print(f"\n2.0.0 ready and marked good after {took_s:.0f} s")
    found = status(box)
    assert (found["state"], found["version"]) == ("ready", "2.0.0")
    assert slots(box) == {"booted": "B", "A": "good", "B": "good"}
    same = box.run("cat", "/etc/machine-id", "/data/ssh/ssh_host_ed25519_key.pub").stdout
    assert same == identity
    # The model came with the first image, and the bundle did not touch it.
    assert box.run(APPLIANCE, "models", "list").stdout.count("mlp") == 1


def test_what_never_gets_ready_is_left(box: Box, workshop: Workshop) -> None:
    broken = workshop.bundle("3.0.0", app=BROKEN)
    done = install(box, broken)
    assert done.returncode == 0, done.stderr
    box.run("systemctl", "reboot", check=False)
    box.wait_said("health-gate: slot A, version 3.0.0: bad; restarting into slot B", READY_S)
    took_s = box.wait_said("health-gate: slot B, version 2.0.0: good", READY_S)
    print(f"\nback on 2.0.0 {took_s:.0f} s after 3.0.0 was given up")
    found = status(box)
    assert (found["state"], found["version"]) == ("ready", "2.0.0")
    assert slots(box) == {"booted": "B", "A": "bad", "B": "good"}


def test_what_has_no_kernel_is_left_out(box: Box) -> None:
    box.run("rauc", "status", "mark-active", "other")
    box.run("mount", "/dev/disk/by-partlabel/root_a", "/mnt")
    box.run("rm", "/mnt/vmlinuz")
    box.run("umount", "/mnt")
    box.run("systemctl", "reboot", check=False)
    box.wait_said("health-gate: slot B, version 2.0.0: good", READY_S)
    grub = box.run("grub-editenv", "/efi/grub/grubenv", "list").stdout.splitlines()
    assert {"ORDER=A B", "A_OK=1", "A_TRY=0", "B_OK=1", "B_TRY=0"} <= {*grub}
