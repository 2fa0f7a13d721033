"""TLS keys come to a robot by a playbook, only if clients could take them; robots' are revoked."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from deploy.lab import Lab, Robot, recap
from deploy.serving import FIRST, refuses, served
from deploy.workshop import Workshop

PORT = 8001
TLS = "etc/appliance/tls"


def new_certificate(directory: Path, name: str, days: int) -> dict[str, str]:
    """Make a certificate and its key; return the variables that name them.

    Args:
        days: That it is good for; -1: it has expired.
    """
    key, certificate = directory / f"{name}.key", directory / f"{name}.pem"
    make = ("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    asked = directory / f"{name}.csr"
    names = ("-keyout", str(key), "-out", str(asked), "-subj", "/CN=box")
    subprocess.run([*make, *names], check=True, capture_output=True)
    sign = ("openssl", "x509", "-req", "-in", str(asked), "-signkey", str(key))
    until = ("-days", str(days), "-out", str(certificate))
    subprocess.run([*sign, *until], check=True, capture_output=True)
    return {"appliance_tls_certificate": str(certificate), "appliance_tls_key": str(key)}


def shown(network: Lab, robot: Robot) -> str:
    """Return the certificate that the box's door for gRPC shows."""
    ask = ("openssl", "s_client", "-alpn", "h2", "-connect", f"{robot.address}:{PORT}")
    done = subprocess.run(
        network.here(*ask), check=False, capture_output=True, input=b"", timeout=30
    )
    said = done.stdout.decode("ascii", "replace")  # what the door itself sends is in it, too
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    return begin + said.partition(begin)[2].partition(end)[0] + end + "\n"


def test_certificates_are_renewed_and_expired_ones_refused(
    network: Lab, robot: Robot, workshop: Workshop, tmp_path: Path
) -> None:
    release = workshop.release(FIRST)
    variables = workshop.variables(release, appliance_grpc_bind=f"0.0.0.0:{PORT}")
    first, second, expired = (
        new_certificate(tmp_path, name, days)
        for name, days in (("first", 2), ("second", 2), ("expired", -1))
    )
    done = network.play("keys.yml", variables | first, "--diff", "-vvv")
    assert done.returncode == 0, done.stdout
    secret = Path(first["appliance_tls_key"]).read_text().splitlines()[1]
    assert secret not in done.stdout + done.stderr
    assert shown(network, robot) == Path(first["appliance_tls_certificate"]).read_text()
    key = robot.machine.root / TLS / "current/certificate.key"
    assert key.stat().st_mode & 0o777 == 0o600

    # The box uses it from the next connection on, and nothing is restarted.
    process = served(robot)["pid"]
    done = network.play("keys.yml", variables | second)
    assert done.returncode == 0, done.stdout
    assert shown(network, robot) == Path(second["appliance_tls_certificate"]).read_text()
    assert served(robot)["pid"] == process
    again = network.play("keys.yml", variables | second)
    assert recap(again.stdout)[robot.name]["changed"] == 0, again.stdout

    refuses(network, robot, variables | expired, "has expired, by the clock of this", "keys.yml")
    mixed = second | {"appliance_tls_key": first["appliance_tls_key"]}
    refuses(network, robot, variables | mixed, "key values mismatch", "keys.yml")
    assert shown(network, robot) == Path(second["appliance_tls_certificate"]).read_text()


def test_keys_are_made_once_and_revoked(network: Lab, robot: Robot, workshop: Workshop) -> None:
    variables = workshop.variables(workshop.release(FIRST))
    clients = ["{{ inventory_hostname }}", "arm-7"]
    done = network.play("keys.yml", {**variables, "keys_clients": clients})
    assert done.returncode == 0, done.stdout
    own = network.keys / robot.name / "main"
    assert {each.name for each in own.iterdir()} == {f"{robot.name}.key", "arm-7.key"}
    revoked = {**variables, "keys_revoked": ["arm-7"]}
    done = network.play("keys.yml", revoked)
    assert done.returncode == 0, done.stdout
    held = robot.machine.root / "etc/appliance/keys"
    assert [each.name for each in (held / "authorised").iterdir()] == [f"{robot.name}.pub"]
    again = network.play("keys.yml", revoked)
    assert recap(again.stdout)[robot.name]["changed"] == 0, again.stdout
    refuses(
        network, robot, {**variables, "keys_removed": ["main"]}, "addresses have main", "keys.yml"
    )
    assert (held / "server/main.key").exists()


def test_a_rotation_while_robots_come_whose_files_are_elsewhere(
    network: Lab, robot: Robot, workshop: Workshop
) -> None:
    variables = workshop.variables(workshop.release(FIRST))
    own, following = (network.keys / robot.name / key for key in ("main", "2027"))
    both = {
        **variables,
        "keys_clients": ["{{ inventory_hostname }}", "arm-8", "arm-9"],
        "appliance_next_server_key": "2027",
        "appliance_next_binds": ["tcp://0.0.0.0:5556"],
    }
    done = network.play("keys.yml", {**variables, "keys_clients": both["keys_clients"][:2]})
    assert done.returncode == 0, done.stdout
    (own / "arm-8.key").unlink()  # it is with its robot

    done = network.play("keys.yml", both)  # and arm-9 comes
    assert done.returncode == 0, done.stdout
    assert {each.stem for each in following.iterdir()} == {robot.name, "arm-9"}
    assert not (own / "arm-9.key").exists()
    (key,) = re.findall(r"(?m)^server_key = .*$", (following / "arm-9.key").read_text())
    said = " ".join(done.stdout.split())
    assert f"In the copy that arm-8 has, put {key} when" in said, said
    assert "that arm-9 has" not in said
    again = network.play("keys.yml", both)
    assert recap(again.stdout)[robot.name]["changed"] == 0, again.stdout

    done = network.play("keys.yml", {**variables, "keys_revoked": ["arm-8", "arm-9"]})
    assert done.returncode == 0, done.stdout
