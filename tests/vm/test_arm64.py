"""The image for Jetson, on a stand-in: Debian for arm64, each program of it emulated.

What NVIDIA offers is not to be had here. Its tarballs' names and layout are the real ones, see
`support/nvidia.py`; the release, the roles, the appliance and ONNX Runtime are.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from attrs import frozen
from deploy.signed_releases import new_key, sign
from support.nvidia import AGX, NANO, add_packages, pack_tree, write_sums, write_tree
from support.repository import add_onnx_mlp

from images.debian import debian
from vm import ask_once

L4T = "36.4.3"
PACKAGES = (
    *("ca-certificates", "chrony", "dbus", "nftables", "openssh-client", "openssh-server"),
    *("procps", "python3", "python3-apt", "python3-venv", "systemd-sysv"),
)
PACK_S, MAKE_S, ASK_S = 600, 3600, 900
# With a loopback of its own: whatever listens on this machine is not in the way.
ALONE = ("unshare", "--mount", "--net", "sh", "-c")
HERE = 'ip link set lo up && exec "$@"'
IN_ROOT = (
    'ip link set lo up && mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev"'
    ' && mount -t tmpfs tmpfs "$0/run" && install -d -o 960 -g 960 "$0/run/appliance"'
    ' && exec chroot --userspec=appliance:appliance "$0" "$@"'
)


@frozen
class Workshop:
    """One for all tests.

    Attributes:
        rootfs: Ubuntu's place is taken by Debian.
    """

    directory: Path
    release: Path
    ansible: Path
    rootfs: Path

    def make(self, bsp: Path, *options: str) -> subprocess.CompletedProcess[str]:
        """Make an image, as a user does."""
        sums = write_sums(self.directory / "SHA256SUMS", bsp, self.rootfs)
        variables = self.directory / "variables.json"
        variables.write_text(json.dumps({"appliance_models": str(self.directory / "models")}))
        command = [sys.executable, "-m", "images", "jetson", str(self.release), f"--bsp={bsp}"]
        command += [f"--rootfs={self.rootfs}", f"--sums={sums}", f"--variables={variables}"]
        command += [f"--allowed-signers={self.directory / 'allowed_signers'}"]
        command += [f"--authorized-keys={self.directory / 'ssh.pub'}"]
        command += [f"--ansible={self.ansible}", f"--out={self.directory / 'out'}", *options]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=MAKE_S)


@pytest.fixture(scope="module")
def shop(arm64_release: Path, kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    directory = tmp_path_factory.mktemp("jetson")
    new_key(directory / "ssh")
    key = new_key(directory / "release")
    release = Path(shutil.copytree(arm64_release, directory / arm64_release.name))
    sign(release, key)
    add_onnx_mlp(directory / "models", "mlp")
    ansible = Path(os.environ["APPLIANCE_ANSIBLE"])
    return Workshop(directory, release, ansible, pack_rootfs(debian("arm64", PACKAGES, kept)))


@pytest.fixture(scope="module")
def image(shop: Workshop) -> Path:
    """The root file system of an image."""
    tree = write_tree(shop.directory, L4T)
    add_packages(tree)
    done = shop.make(pack_tree(tree, L4T))
    assert done.returncode == 0, done.stderr
    print(f"\n{done.stderr}")
    said = Path(done.stdout.strip())
    assert said.is_file()
    return said.parent / "Linux_for_Tegra/rootfs"


def pack_rootfs(root: Path) -> Path:
    """Return the root as NVIDIA packs one; without sources of packages, as none is reached."""
    tarball = root.with_name(f"{root.name}-packed") / (
        f"Tegra_Linux_Sample-Root-Filesystem_R{L4T}_aarch64.tbz2"
    )
    if not tarball.exists():
        tarball.parent.mkdir(exist_ok=True)
        partial = tarball.with_suffix(".partial")
        left = ["etc/apt/sources.list*/*", "etc/apt/sources.list", "var/lib/apt/lists/*", "dev/*"]
        command = ["tar", "--create", "--bzip2", f"--file={partial}", f"--directory={root}"]
        command += [f"--exclude=./{each}" for each in (*left, "var/cache/apt/*")]
        subprocess.run([*command, "."], check=True, timeout=PACK_S)
        partial.rename(tarball)
    return tarball


def ask(command: list[str]) -> dict[str, object]:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=ASK_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_bsp_that_was_renamed_is_not_taken(shop: Workshop, tmp_path: Path) -> None:
    done = shop.make(pack_tree(write_tree(tmp_path, "36.4.0"), L4T))
    assert done.returncode == 1
    assert "holds L4T 36.4.0; somebody has renamed it" in done.stderr
    assert not list((shop.directory / "out").glob("*"))


def test_what_is_no_bsp_is_not_taken(shop: Workshop, tmp_path: Path) -> None:
    tree = write_tree(tmp_path, L4T)
    (tree / "apply_binaries.sh").unlink()
    done = shop.make(pack_tree(tree, L4T))
    assert done.returncode == 1
    assert "is no BSP: there is no Linux_for_Tegra/apply_binaries.sh in it" in done.stderr


def test_it_is_nvidias_system_with_the_appliance_in_it(image: Path) -> None:
    sources = (image / "etc/apt/sources.list.d/nvidia-l4t-apt-source.list").read_text()
    assert "file:/opt/nvidia/t234 " in sources
    assert "\nIMAGE_ID=appliance\n" in (image / "usr/lib/os-release").read_text()
    units = image / "etc/systemd/system"
    assert (units / "multi-user.target.wants/appliance.service").is_symlink()
    assert (image / "root/.ssh/authorized_keys").read_text().startswith("ssh-ed25519 ")
    status = (image / "var/lib/dpkg/status").read_text()
    assert "Package: python3-libnvinfer\nStatus: install ok installed" in status
    assert not (image / "root/.ansible").exists()


def test_it_says_how_its_boards_are_flashed(shop: Workshop, image: Path) -> None:
    said = (image.parents[1] / "flash-commands.txt").read_text()
    version = shop.release.name.removeprefix("appliance-")
    assert said.startswith(f"# appliance {version}, on L4T {L4T}, for boards with t234.\n")
    for board in (AGX, NANO):
        assert f"\n# {board}\n./tools/kernel_flash/l4t_initrd_flash.sh " in said


def test_it_answers_what_x86_answers(image: Path, tmp_path: Path) -> None:
    release = "/opt/appliance/current/release/bin"
    shutil.copy(ask_once.__file__, image / "srv")
    script = [f"{release}/python", "/srv/ask_once.py", f"{release}/appliance"]
    there = ask([*ALONE, IN_ROOT, str(image), *script, "/etc/appliance/appliance.toml"])
    configuration = tmp_path / "appliance.toml"
    add_onnx_mlp(tmp_path / "models", "mlp")
    configuration.write_text(
        f'models.directory = "{tmp_path}/models"\nadmin.socket = "{tmp_path}/admin.sock"\n'
        'transport.bind = ["tcp://127.0.0.1:5555"]\n'
    )
    command = str(Path(sys.executable).with_name("appliance"))
    script = [sys.executable, ask_once.__file__, command, str(configuration)]
    here = ask([*ALONE, HERE, "sh", *script])
    print(f"\n{there}\n{here}")
    assert (there["machine"], here["machine"]) == ("aarch64", "x86_64")
    assert there["status"] == here["status"]
    assert there["exit_code"] == here["exit_code"] == 0
    np.testing.assert_allclose(there["y"], here["y"], rtol=1e-5)
    assert np.shape(there["y"]) in ((4,), (1, 4))
