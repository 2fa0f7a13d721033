"""The files of a slot: Debian, what makes a box of it, the appliance by the roles of `ansible/`."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from images import ImageError
from images.debian import debian
from images.provision import Contents, finish, made, need_file, run_roles
from images.tools import need, run, step

X86 = Path(__file__).parent / "x86"
# Those that no role enables.
UNITS = (
    *("box-identity.service", "grow-disk.service", "health-gate.service"),
    *("software-watchdog.service", "ssh.service"),
    *("systemd-networkd.service", "systemd-resolved.service"),
)
# On /data; etc/fstab says where each is seen.
DIRECTORIES = ("cache", "journal", "keys", "ssh", "state", "tls")
COPY_S, ROLES_S = 600, 1800


@dataclass(frozen=True, kw_only=True)
class BoxContents(Contents):
    """What is put into a root of such a box.

    Attributes:
        keyring: Certificates of those who may sign updates of the box.
        packages: Of Debian, beside those that each box has.
        sources: Where Debian is fetched from, as apt wants it.
    """

    keyring: Path
    packages: tuple[str, ...] = ()
    sources: Path | None = None


@dataclass(frozen=True)
class Root:
    """A folder with what goes onto a box."""

    path: Path

    @property
    def slot(self) -> Path:
        """The files of a slot; an update is made of these alone."""
        return self.path / "slot"

    @property
    def data(self) -> Path:
        """What both slots share, as a new box has it."""
        return self.path / "data"

    @property
    def version(self) -> str:
        """Of the image."""
        lines = (self.slot / "usr/lib/os-release").read_text().splitlines()
        (found,) = (line for line in lines if line.startswith("IMAGE_VERSION="))
        return found.partition("=")[2]


def make_root(contents: BoxContents, directory: Path, ansible: Path) -> Root:
    """Make a root anew; return it.

    Args:
        directory: Where it goes, and what is kept for the next one.
        ansible: The directory of `ansible-playbook`, with `community.general`.

    Raises:
        ImageError: It cannot be made.
    """
    _check(contents, ansible)
    need("unshare")
    base = _debian(contents, directory)
    root = Root(directory / "root")
    with made(root.path) as path:
        partial = Root(path)
        with step("copying Debian"):
            run(["cp", "--archive", base, partial.slot], COPY_S)
            _lay_files(partial.slot)
        with step("running the roles"):
            run_roles(contents, partial.slot, ansible, ROLES_S)
        _finish(contents, partial.slot)
        _lay_data(partial)
    return root


def _check(contents: BoxContents, ansible: Path) -> None:
    contents.check(ansible)
    for option in ("keyring", "sources"):
        need_file(option, getattr(contents, option))
    if "PRIVATE KEY" in contents.keyring.read_text(errors="replace"):
        raise ImageError(f"{contents.keyring}: holds a private key; boxes get the certificate only")


def _debian(contents: BoxContents, directory: Path) -> Path:
    """Return Debian with its packages; fetched if it is not there."""
    lines = (X86 / "packages.txt").read_text().splitlines()
    packages = {*(line for line in lines if line and line[0] != "#"), *contents.packages}
    return debian("amd64", packages, directory, contents.sources)


def _lay_files(root: Path) -> None:
    """Lay what is the same on each box; its modes do not depend on how this was checked out."""
    above = X86 / "root"
    for source in above.rglob("*"):
        if source.is_file():
            file = root / source.relative_to(above)
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, file)
            file.chmod(0o755 if source.stat().st_mode & 0o100 else 0o644)


def _finish(contents: BoxContents, root: Path) -> None:
    """Put in who may update it, and take out what would be the same on each box."""
    finish(contents, root)
    shutil.copyfile(contents.keyring, root / "etc/rauc/keyring.pem")
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    (root / "etc/machine-id").write_text("")
    (root / "etc/hostname").write_text("appliance\n")
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    run(["systemctl", f"--root={root}", "enable", *UNITS], 60)


def _lay_data(root: Root) -> None:
    """Lay what both slots share. What the roles put there, such as models, is not in the slot."""
    state = root.slot / "var/lib/appliance"
    owner = state.stat()
    for name in DIRECTORIES:
        path = root.data / name
        path.mkdir(parents=True)
        path.chmod(0o755)
    uids = {"state": owner.st_uid, "cache": owner.st_uid, "keys": 0, "tls": 0}
    for name, uid in uids.items():
        os.chown(root.data / name, uid, owner.st_gid)
        (root.data / name).chmod(0o750)
    for path in state.iterdir():
        path.rename(root.data / "state" / path.name)
