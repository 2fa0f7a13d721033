"""Clock, ports, disk, the unit, the deployment and the appliance itself."""

from __future__ import annotations

from appliance.doctor.facts import Facts, Port
from appliance.doctor.judging.findings import Remark

MIB = 1 << 20
LITTLE_BYTES, HARDLY_ANY_BYTES = 1024 * MIB, 64 * MIB
MOST_EXPOSED = 2.0


def clock(facts: Facts) -> list[Remark]:
    """The kernel's clock."""
    if facts.synchronised is None:
        return [Remark("skipped", "the kernel does not say whether the clock is set")]
    if facts.synchronised:
        return [Remark("ok", "is synchronised")]
    return [
        Remark(
            "warning",
            "is not synchronised: logs and recordings of several boxes cannot be compared, and "
            "certificates may seem expired (scheduling does not need it)",
            "install chrony, or `timedatectl set-ntp true`",
        )
    ]


def ports(facts: Facts) -> list[Remark]:
    """Addresses that somebody else has."""
    return [_port(each, facts) for each in facts.ports] or [Remark("skipped", "none")]


def _port(port: Port, facts: Facts) -> Remark:
    where = f"{port.key}: {port.address}"
    if port.state == "free":
        return Remark("ok", f"{where} is free")
    if port.state == "impossible":
        return Remark("error", f"{where}: {port.error}", f"correct {port.key}")
    if _is_held_by_appliance(port, facts):
        return Remark("ok", f"{where} is held by the appliance")
    holder = f"{port.holder} (pid {port.holder_pid})" if port.holder_pid else "another process"
    return Remark("error", f"{where} is held by {holder}", f"end it, or change {port.key}")


def _is_held_by_appliance(port: Port, facts: Facts) -> bool:
    running = facts.running
    if running.answer != "answered":
        # Who may not ask it may not see who holds the port either.
        return running.answer == "forbidden" and not port.holder_pid
    if port.holder_pid:
        return port.holder_pid == running.pid
    number = port.address.rpartition(":")[2]
    shown = any(bind.rpartition(":")[2] == number or bind == port.address for bind in running.binds)
    return shown or port.key == "admin.listen"  # which no document names


def disk(facts: Facts) -> list[Remark]:
    """Room where the appliance writes."""
    remarks: list[Remark] = []
    for disk in facts.disks:
        found = f"{disk.purpose}: {disk.free_bytes // MIB} MiB free at {disk.path}"
        if disk.free_bytes < HARDLY_ANY_BYTES:
            remarks.append(Remark("error", found, "make room"))
        elif disk.free_bytes < max(LITTLE_BYTES, disk.wanted_bytes):
            needed = max(LITTLE_BYTES, disk.wanted_bytes) // MIB
            remarks.append(Remark("warning", found, f"make room: {needed} MiB may be needed"))
        else:
            remarks.append(Remark("ok", found))
    return remarks or [Remark("skipped", "nothing is written")]


def unit(facts: Facts) -> list[Remark]:
    """Whether the service is there, up and begun at boot."""
    unit = facts.unit
    if unit is None:
        return [Remark("skipped", "there is no systemd here")]
    if not unit.fragment:
        advice = "install the unit (docs/operations.md, systemd)"
        return [Remark("warning", "appliance.service is not installed: nothing starts it", advice)]
    if unit.active == "failed":
        return [
            Remark(
                "error",
                f"appliance.service has failed: {unit.result}",
                "see `journalctl -u appliance`, then `systemctl reset-failed appliance` and "
                "`systemctl start appliance`",
            )
        ]
    if not unit.enabled.startswith("enabled"):
        advice = "systemctl enable appliance"
        found = f"appliance.service is {unit.enabled or 'not enabled'}: the next boot starts none"
        return [Remark("warning", found, advice)]
    return [Remark("ok", f"appliance.service is {unit.active} and {unit.enabled}")]


def hardening(facts: Facts) -> list[Remark]:
    """What systemd makes of the unit."""
    unit = facts.unit
    if unit is None or unit.exposure is None:
        return [Remark("skipped", "there is no unit that systemd could judge")]
    found = f"exposure {unit.exposure:.1f}"
    if unit.exposure > MOST_EXPOSED:
        advice = "see `systemd-analyze security appliance`, and which drop-in opens it"
        return [Remark("warning", f"{found}, above {MOST_EXPOSED:.1f}", advice)]
    return [Remark("ok", found)]


def deployment(facts: Facts) -> list[Remark]:
    """What a switch that was cut off has left."""
    there = facts.deployment
    if there is None:
        return [Remark("skipped", "nothing was deployed here")]
    if there.is_switching:
        return [Remark("ok", "a switch is under way")]
    advice = "deploy once more: that first brings to an end what was cut off"
    remarks: list[Remark] = []
    if not there.is_whole:
        remarks.append(
            Remark("error", f"current leads to {there.name}, which is not whole", advice)
        )
    if there.is_on_trial:
        found = f"{there.name} is current and has not proven itself: the next boot leaves it"
        remarks.append(Remark("warning", found, advice))
    if there.next_runs:
        remarks.append(Remark("warning", "appliance-next runs, and no switch is under way", advice))
    return remarks or [Remark("ok", there.name)]


def appliance(facts: Facts) -> list[Remark]:
    """The appliance that runs."""
    running = facts.running
    if running.answer == "answered":
        if running.state == "ready":
            return [Remark("ok", "ready")]
        why = f": {'; '.join(running.reasons)}" if running.reasons else ""
        return [Remark("warning", f"{running.state}{why}", "see `appliance status`")]
    if running.answer == "forbidden":
        return [Remark("skipped", f"{facts.caller.name} may not ask it")]
    is_up = facts.unit is not None and facts.unit.active == "active"
    if running.answer == "silent" or is_up:
        advice = "see `journalctl -u appliance`; `systemctl restart appliance`"
        return [Remark("error", f"does not answer: {running.error}", advice)]
    return [Remark("warning", "does not run", "systemctl start appliance, or `appliance serve`")]
