"""The files of a slot: Debian, what makes a box of it, the appliance by the roles of `ansible/`.

Debian is fetched once for each list of packages, and kept. All mounts are in a namespace of the
processes that need them, and gone with those, however they end.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from images import ImageError
from images.tools import need, run, step

REPOSITORY = Path(__file__).parents[1]
X86 = Path(__file__).parent / "x86"
SUITE = "bookworm"
SOURCES = (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list"))
# Those that no role enables.
UNITS = (
    *("box-identity.service", "grow-disk.service", "health-gate.service"),
    *("software-watchdog.service", "ssh.service"),
    *("systemd-networkd.service", "systemd-resolved.service"),
)
# On /data; etc/fstab says where each is seen.
DIRECTORIES = ("cache", "journal", "keys", "ssh", "state")
FETCH_S, COPY_S, ROLES_S = 1800, 600, 1800
OWN_MOUNTS = ("unshare", "--mount")
_CHROOT = 'mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && exec "$@"'


@dataclass(frozen=True)
class Contents:
    """What is put into a root.

    Attributes:
        release: Folder that `make release` made.
        allowed_signers: Who may sign that; None: what nobody signed is taken as well.
        keyring: Certificates of those who may sign updates of the box.
        authorized_keys: Who may log in as root by ssh; None: nobody.
        variables: File with variables of the roles, as YAML or JSON.
        packages: Of Debian, beside those that each box has.
        sources: Where Debian is fetched from, as apt wants it.
        version: Of the image; empty: that of the release.
    """

    release: Path
    allowed_signers: Path | None
    keyring: Path
    authorized_keys: Path | None = None
    variables: Path | None = None
    packages: tuple[str, ...] = ()
    sources: Path | None = None
    version: str = ""


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


def make_root(contents: Contents, directory: Path, ansible: Path) -> Root:
    """Make a root anew; return it.

    Args:
        directory: Where it goes, and what is kept for the next one.
        ansible: The directory of `ansible-playbook`, with `community.general`.

    Raises:
        ImageError: It cannot be made.
    """
    _check(contents, ansible)
    need("mmdebstrap", "unshare")
    base = _debian(contents, directory)
    made = Root(directory / "root")
    with _made(made.path) as path:
        partial = Root(path)
        with step("copying Debian"):
            run(["cp", "--archive", base, partial.slot], COPY_S)
            _lay_files(partial.slot)
        with step("running the roles"):
            _run_roles(contents, partial.slot, ansible)
        _finish(contents, partial.slot)
        _lay_data(partial)
    return made


def _check(contents: Contents, ansible: Path) -> None:
    if not (contents.release / "SHA256SUMS").is_file():
        raise ImageError(f"{contents.release}: is no release: no SHA256SUMS; see `make release`")
    for option in ("allowed_signers", "keyring", "authorized_keys", "variables", "sources"):
        path: Path | None = getattr(contents, option)
        if path is not None and not path.is_file():
            raise ImageError(f"--{option.replace('_', '-')}: {path}: no such file")
    if "PRIVATE KEY" in contents.keyring.read_text():
        raise ImageError(f"{contents.keyring}: holds a private key; boxes get the certificate only")
    if not (ansible / "ansible-playbook").exists():
        raise ImageError(f"{ansible}/ansible-playbook: no such file; `make image` installs it")


def _debian(contents: Contents, directory: Path) -> Path:
    """Return Debian with its packages; fetched if it is not there."""
    lines = (X86 / "packages.txt").read_text().splitlines()
    packages = sorted({*(line for line in lines if line and line[0] != "#"), *contents.packages})
    sources = contents.sources or next((path for path in SOURCES if path.exists()), None)
    if sources is None:
        raise ImageError("this machine has no package sources of Debian; name a file: --sources")
    digest = hashlib.sha256(json.dumps([SUITE, packages, sources.read_text()]).encode())
    base = directory / f"debian-{digest.hexdigest()[:12]}"
    if not base.exists():
        with step(f"fetching {SUITE} with {len(packages)} packages"), _made(base) as partial:
            include = f"--include={','.join(packages)}"
            command = [*OWN_MOUNTS, "mmdebstrap", "--variant=minbase", "--mode=root", include]
            run([*command, "--format=directory", SUITE, partial, sources], FETCH_S)
    return base


@contextmanager
def _made(path: Path) -> Generator[Path, None, None]:
    """Give a directory to fill, which takes its place once it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        partial.chmod(0o755)
        yield partial
        if path.exists():
            shutil.rmtree(path)
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _lay_files(root: Path) -> None:
    """Lay what is the same on each box; its modes do not depend on how this was checked out."""
    above = X86 / "root"
    for source in above.rglob("*"):
        if source.is_file():
            file = root / source.relative_to(above)
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, file)
            file.chmod(0o755 if source.stat().st_mode & 0o100 else 0o644)


def _run_roles(contents: Contents, root: Path, ansible: Path) -> None:
    signers = contents.allowed_signers
    variables = {
        "appliance_release": str(contents.release.resolve()),
        "appliance_allow_unsigned": signers is None,
        "appliance_allowed_signers": "" if signers is None else str(signers.resolve()),
    }
    playbook: list[str | Path] = [ansible / "ansible-playbook", "-i", f"{root.resolve()},"]
    playbook += ["--connection=community.general.chroot", f"--extra-vars={json.dumps(variables)}"]
    if contents.variables is not None:
        playbook.append(f"--extra-vars=@{contents.variables.resolve()}")
    playbook.append(REPOSITORY / "ansible/image.yml")
    environment = {
        "PATH": f"{ansible.resolve()}:{os.environ['PATH']}",
        "ANSIBLE_CONFIG": str(REPOSITORY / "ansible/ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
    }
    run([*OWN_MOUNTS, "sh", "-c", _CHROOT, root.resolve(), *playbook], ROLES_S, environment)


def _finish(contents: Contents, root: Path) -> None:
    """Put in who may do what, and take out what would be the same on each box."""
    version = contents.version or contents.release.name.removeprefix("appliance-")
    with (root / "usr/lib/os-release").open("a") as file:
        file.write(f"IMAGE_ID=appliance\nIMAGE_VERSION={version}\n")
    shutil.copyfile(contents.keyring, root / "etc/rauc/keyring.pem")
    if contents.authorized_keys is not None:
        (root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
        shutil.copyfile(contents.authorized_keys, root / "root/.ssh/authorized_keys")
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    (root / "etc/machine-id").write_text("")
    (root / "etc/hostname").write_text("appliance\n")
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    for left in (".ansible", ".cache"):
        shutil.rmtree(root / "root" / left, ignore_errors=True)
    run(["systemctl", f"--root={root}", "enable", *UNITS], 60)


def _lay_data(root: Root) -> None:
    """Lay what both slots share. What the roles put there, such as models, is not in the slot."""
    state = root.slot / "var/lib/appliance"
    owner = state.stat()
    for name in DIRECTORIES:
        path = root.data / name
        path.mkdir(parents=True)
        path.chmod(0o755)
    for name, uid in (("state", owner.st_uid), ("cache", owner.st_uid), ("keys", 0)):
        os.chown(root.data / name, uid, owner.st_gid)
        (root.data / name).chmod(0o750)
    for path in state.iterdir():
        path.rename(root.data / "state" / path.name)
