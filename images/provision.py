"""What each box gets, whichever it is: the appliance and its site, by the roles of `ansible/`.

The roles run by chroot. All mounts are in a namespace of the processes that need them, and gone
with those; and those go with whoever started them, however that ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from images import ImageError
from images.tools import run

REPOSITORY = Path(__file__).parents[1]
ISOLATED = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]*")
_IN_ROOT = 'mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && exec "$@"'


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What is put into a root.

    Attributes:
        release: Folder that `make release` made.
        allowed_signers: Who may sign that; None: what nobody signed is taken as well.
        authorized_keys: Who may log in as root by ssh; None: nobody.
        variables: File with variables of the roles, as YAML or JSON.
        version: Of the image; empty: that of the release.
    """

    release: Path
    allowed_signers: Path | None
    authorized_keys: Path | None = None
    variables: Path | None = None
    version: str = ""

    @property
    def image_version(self) -> str:
        """Of the image, whether it was named or not."""
        return self.version or self.release.name.removeprefix("appliance-")

    def check(self, ansible: Path) -> None:
        """Look whether all that was named is there.

        Raises:
            ImageError: It is not.
        """
        if not _VERSION.fullmatch(self.image_version):
            raise ImageError(f"{self.image_version!r} cannot be the version of an image")
        if not (self.release / "SHA256SUMS").is_file():
            raise ImageError(f"{self.release}: is no release: no SHA256SUMS; see `make release`")
        for option in ("allowed_signers", "authorized_keys", "variables"):
            need_file(option, getattr(self, option))
        if not (ansible / "ansible-playbook").exists():
            raise ImageError(f"{ansible}/ansible-playbook: no such file; `make image` installs it")


def need_file(option: str, path: Path | None) -> None:
    """Look whether the file that an option names is there.

    Raises:
        ImageError: It is not.
    """
    if path is not None and not path.is_file():
        raise ImageError(f"--{option.replace('_', '-')}: {path}: no such file")


@contextmanager
def locked(directory: Path) -> Generator[None, None, None]:
    """Keep others from making something in the same directory.

    Raises:
        ImageError: Somebody does.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        stack.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ImageError(
                f"{directory}: another image is being made there; wait for it"
            ) from None
        yield


@contextmanager
def made(path: Path) -> Generator[Path, None, None]:
    """Give a directory to fill, which takes its place once it is complete.

    Its parent is `locked`: what lies there half made is nobody's any more.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}-*"):
        shutil.rmtree(left)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        partial.chmod(0o755)
        yield partial
        if path.exists():
            shutil.rmtree(path)
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def run_in(root: Path, command: list[str | Path], timeout_s: float) -> None:
    """Run a command of a root in it.

    Raises:
        ImageError: It fails, or does not end.
    """
    enter = [*ISOLATED, "sh", "-c", _IN_ROOT, root.resolve(), "chroot", root.resolve()]
    run([*enter, *command], timeout_s, {"DEBIAN_FRONTEND": "noninteractive"})


def run_roles(
    contents: Contents,
    root: Path,
    ansible: Path,
    timeout_s: float,
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Provision a root by the roles.

    Args:
        ansible: The directory of `ansible-playbook`, with `community.general`.
        defaults: Variables of this kind of box; those of `contents` count before them.

    Raises:
        ImageError: A role fails.
    """
    signers = contents.allowed_signers
    variables = {
        "appliance_release": str(contents.release.resolve()),
        "appliance_allow_unsigned": signers is None,
        "appliance_allowed_signers": "" if signers is None else str(signers.resolve()),
        **(defaults or {}),
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
    enter = [*ISOLATED, "sh", "-c", _IN_ROOT, root.resolve()]
    run([*enter, *playbook], timeout_s, environment)


def finish(contents: Contents, root: Path) -> None:
    """Put in which image it is and who may log in, and take out what the roles left."""
    with (root / "usr/lib/os-release").open("a") as file:
        file.write(f"IMAGE_ID=appliance\nIMAGE_VERSION={contents.image_version}\n")
    if contents.authorized_keys is not None:
        (root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
        shutil.copyfile(contents.authorized_keys, root / "root/.ssh/authorized_keys")
    for left in (".ansible", ".cache"):
        shutil.rmtree(root / "root" / left, ignore_errors=True)
