"""What the labs are made of: releases and who signs them, models, keys of ssh, layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attrs import frozen

from deploy import controller
from deploy.lab import with_ssh
from deploy.signed_releases import new_key, new_release


@frozen
class Workshop:
    """One for all tests of a run.

    Attributes:
        ansible: The directory of `ansible-playbook`.
        layers: Of a robot that has nothing yet but Debian, and lets `ssh` in.
        key: That signs releases; `allowed_signers` is beside it.
    """

    directory: Path
    wheels: Path
    ansible: Path
    layers: tuple[Path, ...]
    ssh: Path
    key: Path

    @property
    def models(self) -> Path:
        """A directory with the model that controllers ask."""
        return self.directory / "models"

    def release(self, version: str, **changed: tuple[str, str]) -> Path:
        """Return the release of a version, made if it is not there.

        Args:
            changed: Of a module of the appliance: text, and what takes its place.
        """
        made = self.directory / f"appliance-{version}"
        if not made.exists():
            files = {f"appliance/{module}.py": each for module, each in changed.items()}
            new_release(self.wheels, version, self.directory, self.key, files)
        return made

    def variables(self, release: Path, **others: Any) -> dict[str, Any]:
        """Return those of the playbooks for a release."""
        return {
            "appliance_release": str(release),
            "appliance_allowed_signers": str(self.key.with_name("allowed_signers")),
            "appliance_models": str(self.models),
            "appliance_binds": ["tcp://0.0.0.0:5555"],
            "appliance_keys_required": True,
            "keys_clients": ["{{ inventory_hostname }}"],  # its controller
            "firewall_ports": [5555, 5556, 8001],
            **others,
        }


def open_workshop(directory: Path, wheels: Path, ansible: Path, below: Path) -> Workshop:
    """Make one in an empty directory.

    Args:
        below: The layer that is Debian.
    """
    ssh, key = new_key(directory / "ssh"), new_key(directory / "release")
    version = directory / "models/clock/1"
    version.mkdir(parents=True)
    (version.parent / "model.toml").write_text(controller.MANIFEST)
    (version / "policy.py").write_text(controller.POLICY)
    layers = (below, with_ssh(directory, [below], ssh))
    return Workshop(directory, wheels, ansible, layers, ssh, key)
