"""Stand-ins for what NVIDIA offers for Jetson: the same names and layout, and nothing of NVIDIA's.

Boards' files set the same variables as those of L4T 36 and 39. `apply_binaries.sh` does what counts
for us: it says which L4T the root has, and adds a source of packages that names no SoC yet. That
source is a folder in the root, with an empty package in the place of TensorRT.
"""

from __future__ import annotations

import hashlib
import subprocess
import tarfile
from pathlib import Path

AGX, NANO, NANO_BARE, THOR = (
    *("jetson-agx-orin-devkit", "jetson-orin-nano-devkit", "jetson-orin-nano-devkit-qspi"),
    "jetson-agx-thor-devkit",
)
NVME = "tools/kernel_flash/flash_l4t_t234_nvme.xml"
ORIN = {
    "p3701.conf.common": "CHIPID=0x23;\n",
    "p3737-0000-p3701-0000.conf": """
source "${LDK_DIR}/p3701.conf.common";
EMMC_CFG="flash_t234_qspi_sdmmc.xml";
DTB_FILE=tegra234-p3737-0000+p3701-0000-nv.dtb;
""",
    "p3768-0000-p3767-0000-a0.conf": """
source "${LDK_DIR}/p3701.conf.common";
DTB_FILE=tegra234-p3768-0000+p3767-0000-nv.dtb;
EXTERNAL_DEVICE="nvme0n1p1";
EXTERNAL_PT_LAYOUT="tools/kernel_flash/flash_l4t_nvme.xml";
INTERNAL_PT_LAYOUT="bootloader/generic/cfg/flash_t234_qspi.xml";
""",
    "p3768-0000-p3767-0000-a0-qspi.conf": """
source "${LDK_DIR}/p3768-0000-p3767-0000-a0.conf";
NO_ROOTFS=1;
""",
}
BY_THOR = {
    "nv_public_common_board.conf": "process_board_version() { echo; }\n",
    "p3834-0008-p4071-0000-nvme.conf": """
source "nv_public_common_board.conf"
echo "this is not for whoever reads it"
CHIPID=0x26;
DTB_FILE="tegra264-p4071-0000+p3834-0008-nv.dtb";
EXTERNAL_DEVICE="nvme0n1p1";
EXTERNAL_PT_LAYOUT="tools/kernel_flash/flash_l4t_t264_nvme.xml";
_UNIFIED_FLASH=1
""",
}
LINKS = {
    AGX: "p3737-0000-p3701-0000",
    NANO: "p3768-0000-p3767-0000-a0",
    NANO_BARE: "p3768-0000-p3767-0000-a0-qspi",
    THOR: "p3834-0008-p4071-0000-nvme",
}
APPLY = """\
#!/bin/sh
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cp "$here/nv_tegra/nv_tegra_release" "$here/rootfs/etc/"
[ ! -d "$here/packages" ] || {
    mkdir -p "$here/rootfs/opt/nvidia"
    cp -r "$here/packages" "$here/rootfs/opt/nvidia/t234"
}
echo 'deb [trusted=yes] file:/opt/nvidia/<SOC> ./' \\
    >"$here/rootfs/etc/apt/sources.list.d/nvidia-l4t-apt-source.list"
"""


def write_tree(directory: Path, l4t: str, *, thor: bool = False) -> Path:
    """Write `Linux_for_Tegra`, as a BSP has it; return it."""
    tree = directory / "Linux_for_Tegra"
    major, _, revision = l4t.partition(".")
    files = {
        **ORIN,
        **(BY_THOR if thor else {}),
        "apply_binaries.sh": APPLY,
        "tools/kernel_flash/l4t_initrd_flash.sh": "#!/bin/bash\n",
        NVME: "<partition_layout/>\n",
        "rootfs/README.txt": "Unpack the sample root file system here.\n",
        "nv_tegra/nv_tegra_release": (
            f"# R{major} (release), REVISION: {revision}, GCID: 1, BOARD: generic, EABI: aarch64,"
            " DATE: Mon Jun  1 09:17:31 PM UTC 2026\n# KERNEL_VARIANT: oot\n"
        ),
    }
    for name, text in files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755 if text.startswith("#!") else 0o644)
    for name, target in LINKS.items():
        if f"{target}.conf" in files:
            (tree / f"{name}.conf").symlink_to(f"{target}.conf")
    return tree


def add_packages(tree: Path) -> None:
    """Add a source of packages to a tree, with an empty one in the place of TensorRT."""
    source, control = tree / "packages", tree.parent / "package/DEBIAN/control"
    source.mkdir()
    control.parent.mkdir(parents=True)
    said = (
        "Package: python3-libnvinfer\nVersion: 10.0\nArchitecture: arm64\n"
        "Maintainer: nobody <nobody@localhost>\nDescription: stand-in\n"
    )
    control.write_text(said)
    package = source / "python3-libnvinfer.deb"
    build = ["dpkg-deb", "--root-owner-group", "--build", control.parents[1], package]
    subprocess.run(build, check=True, capture_output=True)
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    place = f"Filename: ./{package.name}\nSize: {package.stat().st_size}\nSHA256: {digest}\n"
    (source / "Packages").write_text(said + place)


def pack_tree(tree: Path, l4t: str) -> Path:
    """Pack a BSP; return the tarball."""
    tarball = tree.parent / f"Jetson_Linux_R{l4t}_aarch64.tbz2"
    with tarfile.open(tarball, "w:bz2") as tar:
        tar.add(tree, tree.name)
    return tarball


def write_sums(path: Path, *tarballs: Path) -> Path:
    """Write checksums, as sha256sum does; return the file."""
    lines = [f"{hashlib.sha256(each.read_bytes()).hexdigest()}  {each.name}\n" for each in tarballs]
    path.write_text("".join(lines))
    return path
