"""NVIDIA's tree with the appliance in its root file system, ready to be flashed."""

from __future__ import annotations

import platform
import re
import shutil
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from images import ImageError
from images.jetson.boards import FLASH, Board, choose, flash_commands, read_boards
from images.jetson.downloads import Downloads, is_same, read_release
from images.provision import ISOLATED, Contents, finish, made, run_in, run_roles
from images.tools import need, run, step

TREE, COMMANDS, APPLY = "Linux_for_Tegra", "flash-commands.txt", "apply_binaries.sh"
RELEASE = "nv_tegra_release"
DEFAULTS = {
    "appliance_drop_ins": ["jetson"],
    "appliance_system_site_packages": True,
    # nft asks the kernel, and an emulated one cannot.
    "firewall_check": platform.machine() == "aarch64",
}
# On x86 each program of the root is emulated.
UNPACK_S, APPLY_S, FETCH_S, ROLES_S = 3600, 3600, 1800, 7200
_EMULATOR = Path("/proc/sys/fs/binfmt_misc/qemu-aarch64")


def make_tree(
    contents: Contents,
    downloads: Downloads,
    directory: Path,
    ansible: Path,
    *,
    boards: Sequence[str] = (),
    apply_options: Sequence[str] = (),
) -> Path:
    """Make `DIRECTORY/appliance-VERSION-jetson-L4T/`; return the file in it that says how to flash.

    Args:
        boards: That it is for; none: all that the BSP names.
        apply_options: Of NVIDIA's apply_binaries.sh.

    Raises:
        ImageError: It cannot be made.
    """
    contents.check(ansible)
    need("tar", "bzip2", "unshare")
    _need_arm64()
    with step("checking NVIDIA's files"):
        version = downloads.check()
    place = directory / f"appliance-{contents.image_version}-jetson-{version}"
    with made(place) as partial:
        tree = partial / TREE
        rootfs = tree / "rootfs"
        with step("unpacking NVIDIA's files"):
            _unpack_bsp(downloads, version, partial)
            chosen = choose(read_boards(tree), boards)
            _unpack(downloads.rootfs, rootfs, "--preserve-permissions", "--same-owner")
        with step(f"running {APPLY}"):
            run([*ISOLATED, tree / APPLY, *apply_options], APPLY_S)
        _check_applied(rootfs, version)
        _name_soc(rootfs, chosen[0].soc)
        with step("running the roles"), _resolving(rootfs):
            run_in(rootfs, ["apt-get", "update", "--quiet"], FETCH_S)
            run_roles(contents, rootfs, ansible, ROLES_S, DEFAULTS)
        finish(contents, rootfs)
        (partial / COMMANDS).write_text(_say(chosen, tree, version, contents.image_version))
    return place / COMMANDS


def _need_arm64() -> None:
    if platform.machine() == "aarch64":
        return
    said = _EMULATOR.read_text() if _EMULATOR.exists() else ""
    # F: it is found from inside the root, where it does not lie.
    if re.search(r"^flags: \w*F", said, re.MULTILINE) is None:
        raise ImageError(
            "this machine does not run programs of arm64: apt install qemu-user-static"
            " binfmt-support, then update-binfmts --enable qemu-aarch64"
        )


def _unpack_bsp(downloads: Downloads, version: str, directory: Path) -> None:
    _unpack(downloads.bsp, directory, "--no-same-owner")
    tree = directory / TREE
    for needed in (APPLY, FLASH):
        if not (tree / needed).is_file():
            raise ImageError(f"{downloads.bsp.name}: is no BSP: there is no {TREE}/{needed} in it")
    found = read_release(tree / "nv_tegra" / RELEASE)
    if not is_same(found, version):
        raise ImageError(f"{downloads.bsp.name}: holds L4T {found}; somebody has renamed it")


def _unpack(tarball: Path, directory: Path, *options: str) -> None:
    directory.mkdir(exist_ok=True)
    command = ["tar", "--extract", "--numeric-owner", *options, "--directory", directory]
    run([*command, "--file", tarball], UNPACK_S)


def _check_applied(rootfs: Path, version: str) -> None:
    found = read_release(rootfs / "etc" / RELEASE)
    if not is_same(found, version):
        raise ImageError(f"{APPLY} left a root with L4T {found}; wanted {version}")


def _name_soc(rootfs: Path, soc: str) -> None:
    """Name the SoC in NVIDIA's package source; on a board, its first boot would."""
    for path in (rootfs / "etc/apt/sources.list.d").glob("nvidia-*.list"):
        path.write_text(path.read_text().replace("<SOC>", soc))


@contextmanager
def _resolving(rootfs: Path) -> Generator[None, None, None]:
    """Let names be resolved in a root as they are here; it is left as it was."""
    here, there = Path("/etc/resolv.conf"), rootfs / "etc/resolv.conf"
    kept = there.with_name(".resolv.conf.kept")
    was_there = there.is_symlink() or there.exists()
    if was_there:
        there.rename(kept)
    try:
        if here.exists():
            shutil.copyfile(here, there)
        yield
    finally:
        there.unlink(missing_ok=True)
        if was_there:
            kept.rename(there)


def _say(boards: Sequence[Board], tree: Path, version: str, image: str) -> str:
    """Write how boards are flashed."""
    lines = [
        f"# appliance {image}, on L4T {version}, for boards with {boards[0].soc}.",
        f"# In {TREE}, as root:",
        "",
        "# What the commands below need of this machine, once:",
        "./tools/l4t_flash_prerequisites.sh",
        "",
        "# A user; without one the first boot stops, and asks for it on a screen:",
        "./tools/l4t_create_default_user.sh -u NAME -p PASSWORD -n HOSTNAME --accept-license",
        "",
        "# With one board in recovery mode on the USB cable, one of these. All on it is lost.",
    ]
    for board in boards:
        lines += ["", f"# {board.name}", *flash_commands(board, tree)]
    return "\n".join(lines) + "\n"
