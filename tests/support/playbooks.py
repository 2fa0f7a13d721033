"""Runs the playbooks of `ansible/` on boxes, as a controller does."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

PLAYBOOKS = Path(__file__).parents[2] / "ansible"
PLAYBOOK_S = 600
SSH = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
# Nothing is fetched: the boxes have what they need.
NOTHING_FETCHED = {f"{role}_install_packages": False for role in ("base", "time", "firewall")}


def play(
    playbook: str,
    hosts: Mapping[str, Mapping[str, Any]],
    variables: Mapping[str, Any],
    *options: str,
    key: Path,
    ansible: Path,
    home: Path,
    within: Sequence[str] = (),
    timeout_s: float = PLAYBOOK_S,
) -> subprocess.CompletedProcess[str]:
    """Run a playbook on boxes that let the holder of a key of ssh in, as their root.

    Args:
        hosts: The variables of each.
        ansible: The directory of `ansible-playbook`.
        home: Of whoever runs it; the inventory is written there.
        within: A command that runs it.
    """
    common = {
        "ansible_user": "root",
        "ansible_ssh_private_key_file": str(key),
        "ansible_ssh_extra_args": SSH,
        **NOTHING_FETCHED,
    }
    group = {"hosts": hosts, "vars": common | dict(variables)}
    with NamedTemporaryFile("w", dir=home, suffix=".json", delete=False) as inventory:
        json.dump({"appliances": group}, inventory)
    environment = {
        "PATH": f"{ansible}:{os.environ['PATH']}",
        "HOME": str(home),
        "ANSIBLE_CONFIG": str(PLAYBOOKS / "ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
        "LC_ALL": "C.UTF-8",
    }
    command = [*within, f"{ansible}/ansible-playbook", "-i", inventory.name, PLAYBOOKS / playbook]
    return subprocess.run(
        [*command, *options],
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=environment,
        stdin=subprocess.DEVNULL,
    )
