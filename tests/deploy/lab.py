"""Robots on a private network, and a controller there that runs playbooks.

The network is a bridge in a network namespace of its own, where what runs here for the controller
runs too; each machine is in another, joined by a pair of virtual interfaces. Nothing leaves it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from attrs import define, frozen
from support.playbooks import play

from deploy.machines import Machine, Run, layer, machine

NAMESPACES = Path("/run/netns")


@frozen
class Robot:
    """One machine of the lab."""

    name: str
    address: str
    machine: Machine


@define
class Lab:
    """The robots, and where the controller's files are."""

    namespace: str
    directory: Path
    ansible: Path
    key: Path
    robots: list[Robot]

    @property
    def keys(self) -> Path:
        """Where the secrets of robots' controllers are."""
        return self.directory / "keys"

    def here(self, *command: str | Path) -> list[str]:
        """Return a command that runs on the controller, in its network."""
        return ["ip", "netns", "exec", self.namespace, *map(str, command)]

    @contextmanager
    def unplugged(self, robot: Robot) -> Generator[None, None, None]:
        """Take a robot off the network meanwhile."""
        end = ("-n", self.namespace, "link", "set", f"v{self.robots.index(robot) + 1}")
        _ip(*end, "down")
        try:
            yield
        finally:
            _ip(*end, "up")

    def play(
        self, playbook: str, variables: Mapping[str, Any], *options: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a playbook on all robots."""
        return play(
            playbook,
            {robot.name: {"ansible_host": robot.address} for robot in self.robots},
            # The machines have no clock of their own.
            {"set_time": False, "keys_directory": str(self.keys), **variables},
            *options,
            key=self.key,
            ansible=self.ansible,
            home=self.directory,
            within=self.here(),
        )


def recap(said: str) -> dict[str, dict[str, int]]:
    """Return what Ansible counted of each robot."""
    _, _, lines = said.partition("PLAY RECAP")
    found: dict[str, dict[str, int]] = {}
    for line in lines.splitlines()[1:]:
        name, _, counts = line.partition(" : ")
        if counts:
            pairs = (pair.split("=") for pair in counts.split())
            found[name.strip()] = {key: int(number) for key, number in pairs}
    return found


def with_ssh(cache: Path, below: Sequence[Path], key: Path) -> Path:
    """Return a layer whose machines let a key's holder in, as their root."""

    def prepare(root: Path, run: Run) -> None:
        folder = root / "root/.ssh"
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "authorized_keys").write_text(key.with_suffix(".pub").read_text())
        run(["systemctl", "enable", "ssh.service"])

    return layer(cache, f"ssh-{os.getpid()}", below, prepare)


@contextmanager
def lab(
    count: int, layers: Sequence[Path], scratch: Path, ansible: Path, key: Path
) -> Generator[Lab, None, None]:
    """Boot robots on a network of their own."""
    home = f"lab-{os.getpid()}"
    with ExitStack() as stack:
        stack.enter_context(_namespace(home))
        _ip("-n", home, "link", "add", "br0", "type", "bridge")
        _ip("-n", home, "addr", "add", "10.77.0.1/24", "dev", "br0")
        _ip("-n", home, "link", "set", "br0", "up")
        made = Lab(home, scratch, ansible, key, [])
        for number in range(1, count + 1):
            name, address = f"robot-{number}", f"10.77.0.{10 + number}"
            network = stack.enter_context(_namespace(f"{home}-{number}"))
            pair = ("type", "veth", "peer", "name", "host0", "netns", network.name)
            _ip("-n", home, "link", "add", f"v{number}", *pair)
            _ip("-n", home, "link", "set", f"v{number}", "master", "br0", "up")
            _ip("-n", network.name, "addr", "add", f"{address}/24", "dev", "host0")
            _ip("-n", network.name, "link", "set", "host0", "up")
            # nftables needs it; the machine's network is its own.
            options = ("--capability=CAP_NET_ADMIN",)
            booted = stack.enter_context(
                machine(name, layers, scratch, network=network, options=options)
            )
            made.robots.append(Robot(name, address, booted))
        yield made


@contextmanager
def _namespace(name: str) -> Generator[Path, None, None]:
    _ip("netns", "add", name)
    try:
        _ip("-n", name, "link", "set", "lo", "up")
        yield NAMESPACES / name
    finally:
        _ip("netns", "del", name)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
