"""Makes images and bundles as `make image` and `make bundle` do, of releases that are made here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from attrs import frozen
from deploy.signed_releases import new_key, new_release
from support.playbooks import play
from support.repository import add_onnx_mlp

from vm.box import Box

ROBOT = "arm-1"
MAKE_S = 1800


@frozen
class Workshop:
    """One for all tests of a run.

    Attributes:
        work: What is kept from run to run: Debian.
        ssh: A key that boxes let in; its public half is beside it.
    """

    directory: Path
    work: Path
    wheels: Path
    ansible: Path
    ssh: Path
    release_key: Path

    def image(self, version: str) -> Path:
        """Return a disk with a release in it."""
        return self._make("image", version, {}, "--root-size=2G", "--data-size=512M")

    def bundle(self, version: str, *, signer: str = "workshop", **changed: tuple[str, str]) -> Path:
        """Return an update.

        Args:
            signer: Who signs it.
            changed: Of a module of the appliance: text, and what takes its place.
        """
        certificate, key = self.certificate(signer)
        files = {f"appliance/{module}.py": each for module, each in changed.items()}
        return self._make("bundle", version, files, f"--certificate={certificate}", f"--key={key}")

    def signed_anew(self, bundle: Path, former: str) -> Path:
        """Return the same update, signed by the workshop instead of somebody else."""
        certificate, key = self.certificate("workshop")
        signed = bundle.with_name(f"signed-{bundle.name}")
        command = ["rauc", "resign", f"--cert={certificate}", f"--key={key}"]
        command += [f"--keyring={self.certificate(former)[0]}", f"--signing-keyring={certificate}"]
        subprocess.run([*command, bundle, signed], check=True, capture_output=True)
        return signed

    def certificate(self, name: str) -> tuple[Path, Path]:
        """Return the certificate of somebody who signs bundles, and its key."""
        certificate, key = (self.directory / f"{name}.{kind}" for kind in ("crt", "key"))
        if not certificate.exists():
            command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"]
            command += ["ec_paramgen_curve:P-256", "-noenc", "-days", "30", "-subj", f"/CN={name}"]
            command += ["-out", str(certificate), "-keyout", str(key)]
            subprocess.run(command, check=True, capture_output=True)
        return certificate, key

    def give_keys(self, box: Box) -> Path:
        """Make keys on a box by the playbook for that; return the key of its robot."""
        certificate, key = self.certificate("door")
        variables = {
            **self._variables(),
            "appliance_release": str(self.directory / "appliance-1.0.0"),
            "appliance_allowed_signers": str(self.release_key.with_name("allowed_signers")),
            "appliance_tls_certificate": str(certificate),
            "appliance_tls_key": str(key),
            "keys_clients": [ROBOT],
            "keys_directory": str(self.directory),
            "set_firewall": False,
        }
        address = {"ansible_host": "127.0.0.1", "ansible_port": box.port}
        done = play(
            *("keys.yml", {"box": address}, variables),
            key=self.ssh,
            ansible=self.ansible,
            home=self.directory,
            timeout_s=MAKE_S,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return self.directory / f"box/main/{ROBOT}.key"

    def _variables(self) -> dict[str, object]:
        """Return those of a site that requires keys of robots, and has TLS at its other door."""
        return {
            "appliance_models": str(self.directory / "models"),
            "appliance_binds": ["tcp://0.0.0.0:5555"],
            "appliance_keys_required": True,
            "appliance_grpc_bind": "0.0.0.0:8001",
            "appliance_tls_certificate": "of each box its own",
            "set_time": True,
        }

    def _make(
        self, what: str, version: str, changed: dict[str, tuple[str, str]], *options: str
    ) -> Path:
        release = self.directory / f"appliance-{version}"
        if not release.exists():
            new_release(self.wheels, version, self.directory, self.release_key, changed)
        variables = self.directory / "variables.json"
        variables.write_text(json.dumps(self._variables()))
        command = [sys.executable, "-m", "images", what, str(release), *options]
        command += [f"--allowed-signers={self.release_key.with_name('allowed_signers')}"]
        command += [f"--keyring={self.certificate('workshop')[0]}", f"--variables={variables}"]
        command += [f"--authorized-keys={self.ssh}.pub", f"--ansible={self.ansible}"]
        command += [f"--out={self.directory}", f"--work={self.work}"]
        done = subprocess.run(
            command, check=False, stdout=subprocess.PIPE, text=True, timeout=MAKE_S
        )
        assert done.returncode == 0
        return Path(done.stdout.strip())


def open_workshop(directory: Path, work: Path, wheels: Path, ansible: Path) -> Workshop:
    """Make one in an empty directory."""
    ssh, key = new_key(directory / "ssh"), new_key(directory / "release")
    (directory / "models").mkdir()
    add_onnx_mlp(directory / "models", "mlp")
    return Workshop(directory, work, wheels, ansible, ssh, key)
