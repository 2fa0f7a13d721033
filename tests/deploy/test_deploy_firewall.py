"""A firewall on a robot never shuts the operator out, whatever port ssh is at."""

from __future__ import annotations

from deploy.lab import Lab, Robot, recap
from deploy.serving import FIRST, served
from deploy.workshop import Workshop

PORT = 2222
ONE_TIME = "-o ControlMaster=no -o ControlPath=none -o ConnectTimeout=5"
"""Each command of a playbook comes by a connection of its own."""


def move_ssh(robot: Robot) -> None:
    run = robot.machine.run
    robot.machine.write("/etc/ssh/sshd_config.d/port.conf", f"Port {PORT}\n")
    run("systemctl", "restart", "ssh")


def rules(robot: Robot) -> tuple[str, str]:
    """Return what is loaded, and what is loaded at the next boot."""
    loaded = robot.machine.run("nft", "list", "ruleset").stdout
    return loaded, (robot.machine.root / "etc/nftables.conf").read_text()


def test_rules_that_shut_ssh_out_are_undone_by_the_box(
    network: Lab, robot: Robot, workshop: Workshop
) -> None:
    before = rules(robot)
    variables = workshop.variables(workshop.release(FIRST), firewall_ssh_port=PORT)
    done = network.play("site.yml", variables)
    assert done.returncode != 0, done.stdout
    assert recap(done.stdout)[robot.name]["unreachable"] == 0, done.stdout
    said = " ".join(done.stdout.split())
    assert f"firewall_ssh_port: found {PORT}; wanted the port that ssh listens at" in said, said
    assert rules(robot) == before
    assert served(robot)["state"] == "ready"


def test_ssh_at_another_port(network: Lab, robot: Robot, workshop: Workshop) -> None:
    move_ssh(robot)
    variables = workshop.variables(workshop.release(FIRST), ansible_port=PORT)
    # With the rules of the first deploy, which admit port 22, nobody could come in.
    robot.machine.run("nft", "flush", "ruleset")
    for _ in range(2):
        done = network.play("site.yml", variables, "--ssh-common-args", ONE_TIME)
        assert done.returncode == 0, done.stdout
    assert recap(done.stdout)[robot.name]["changed"] == 0, done.stdout
    loaded, kept = rules(robot)
    assert f"tcp dport {PORT} accept" in loaded
    assert f"tcp dport {PORT} accept" in kept
    timers = robot.machine.run("systemctl", "list-timers", "--all", "appliance-*").stdout
    assert "appliance-firewall-restore" not in timers
