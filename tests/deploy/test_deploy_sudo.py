"""Deploys by a user that is not root, where root does not come in by ssh."""

from __future__ import annotations

from deploy.lab import Lab, Robot, recap
from deploy.serving import FIRST, is_healthy
from deploy.workshop import Workshop

SECOND = "1.1.0"
USER = "olga"


def let_in(robot: Robot, workshop: Workshop) -> None:
    """Let the holder of the key in as a user that may do everything with sudo, and root no more."""
    run, home = robot.machine.run, f"/home/{USER}"
    run("useradd", "--create-home", "--shell=/bin/sh", USER)
    run("mkdir", "--mode=0700", f"{home}/.ssh")
    robot.machine.write(
        f"{home}/.ssh/authorized_keys", workshop.ssh.with_suffix(".pub").read_text()
    )
    run("chown", "--recursive", f"{USER}:", home)
    robot.machine.write("/etc/sudoers.d/olga", f"{USER} ALL=(ALL) NOPASSWD: ALL\n")
    robot.machine.write("/etc/ssh/sshd_config.d/root.conf", "PermitRootLogin no\n")
    run("systemctl", "restart", "ssh")


def test_a_user_that_may_sudo_deploys(network: Lab, robot: Robot, workshop: Workshop) -> None:
    let_in(robot, workshop)
    as_user = {"ansible_user": USER, "ansible_become": True}
    again = workshop.variables(workshop.release(FIRST), **as_user)
    done = network.play("site.yml", again)
    assert done.returncode == 0, done.stdout
    assert recap(done.stdout)[robot.name]["changed"] == 0, done.stdout
    done = network.play("deploy.yml", workshop.variables(workshop.release(SECOND), **as_user))
    assert done.returncode == 0, done.stdout
    assert is_healthy(robot, SECOND)
    done = network.play("keys.yml", {**again, "keys_clients": [robot.name, "arm-2"]})
    assert done.returncode == 0, done.stdout
    [key] = network.keys.rglob("arm-2.key")
    assert key.stat().st_mode & 0o777 == 0o600
