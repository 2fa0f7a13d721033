"""A disk with two slots: what boots them, the first of them filled, and what both share.

Each file system is made as a file, and systemd-repart lays them one after the other: nothing is
mounted, and no loop device is needed.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from images.root import X86, Root
from images.tools import need, run, step

MODULES = (
    *("part_gpt", "fat", "ext2", "normal", "linux", "loadenv", "regexp", "test", "echo"),
    *("sleep", "reboot"),
)
FIRST = ("ORDER=A B", "A_OK=1", "A_TRY=0", "B_OK=0", "B_TRY=0")
MIB = 1 << 20
ROOM = 1.1  # for inodes and the journal of the file system
TOOL_S = 600


@dataclass(frozen=True)
class Sizes:
    """Of partitions, as repart.d(5) wants them; `data` grows to the end of the disk it is on."""

    esp: str = "64M"
    root: str = "4G"
    data: str = "1G"


def make_disk(root: Root, directory: Path, sizes: Sizes) -> Path:
    """Make `DIRECTORY/appliance-VERSION.raw`; return it.

    Raises:
        ImageError: It cannot be made.
    """
    need("grub-mkimage", "grub-editenv", "mcopy", "mkfs.vfat", "mkfs.ext4", "systemd-repart")
    disk = directory / f"appliance-{root.version}.raw"
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".disk-") as name, step(str(disk)):
        scratch = Path(name)
        filled = {
            "10-esp.conf": (sizes.esp, _esp(scratch, sizes)),
            "20-root-a.conf": (sizes.root, make_ext4(root.slot, scratch / "root.ext4")),
            "21-root-b.conf": (sizes.root, None),
            "30-data.conf": (sizes.data, make_ext4(root.data, scratch / "data.ext4")),
        }
        definitions = scratch / "repart.d"
        definitions.mkdir()
        for file, (size, source) in filled.items():
            text = (X86 / "root/etc/repart.d" / file).read_text()
            text += f"SizeMinBytes={size}\nSizeMaxBytes={size}\n"
            text += f"CopyBlocks={source.resolve()}\n" if source else ""
            (definitions / file).write_text(text)
        made = scratch / "disk.raw"
        layout = [f"--definitions={definitions}", "--empty=create", "--size=auto"]
        run(["systemd-repart", *layout, "--dry-run=no", "--seed=random", made], TOOL_S)
        made.rename(disk)
    return disk


def make_ext4(source: Path, image: Path) -> Path:
    """Make a file system of a directory, with some room; return it. It grows when it is booted."""
    used = subprocess.run(
        ["du", "--summarize", "--block-size=1", source],  # noqa: S607
        check=True,
        capture_output=True,
        text=True,
    )
    size = int(int(used.stdout.split()[0]) * ROOM / MIB) + 64
    # GRUB 2.06 cannot read a file system that has this feature.
    features = ["-O", "^metadata_csum_seed"]
    run(["mkfs.ext4", "-q", "-F", *features, "-d", source, image, f"{size}M"], TOOL_S)
    return image


def _esp(scratch: Path, sizes: Sizes) -> Path:
    """Make the partition that the firmware boots from."""
    files, image = scratch / "esp", scratch / "esp.img"
    boot = files / "EFI/BOOT"
    boot.mkdir(parents=True)
    (files / "grub").mkdir()
    where = ["--format=x86_64-efi", "--prefix=/grub", f"--output={boot / 'BOOTX64.EFI'}"]
    run(["grub-mkimage", *where, *MODULES], TOOL_S)
    shutil.copyfile(X86 / "grub.cfg", files / "grub/grub.cfg")
    run(["grub-editenv", files / "grub/grubenv", "create"], TOOL_S)
    run(["grub-editenv", files / "grub/grubenv", "set", *FIRST], TOOL_S)
    run(["truncate", f"--size={sizes.esp}", image], TOOL_S)
    run(["mkfs.vfat", "-n", "ESP", image], TOOL_S)
    run(["mcopy", "-s", "-i", image, files / "EFI", files / "grub", "::/"], TOOL_S)
    return image
