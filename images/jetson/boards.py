"""Which boards a BSP is for, and how each is flashed, as its .conf files say.

They are shell scripts that set variables, and are read as NVIDIA's own tools read them: bash runs
them. Names of boards are mostly links to them.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from images import ImageError

FLASH = "tools/kernel_flash/l4t_initrd_flash.sh"
_NAMES = (
    *("CHIPID", "DTB_FILE", "NO_ROOTFS", "_UNIFIED_FLASH"),
    *("EXTERNAL_DEVICE", "EXTERNAL_PT_LAYOUT", "INTERNAL_PT_LAYOUT"),
)
_ASK = f'. "./$1" >/dev/null 2>&1; for name in {" ".join(_NAMES)}; do echo "$name=${{!name}}"; done'
_READ_S = 20
_CHIP = re.compile(r"tegra(?P<number>\d{3})-")


@dataclass(frozen=True)
class Board:
    """One that the BSP names.

    Attributes:
        name: As the flash tools want it: that of its file.
        soc: Such as t234.
        values: Of the variables that its file sets.
    """

    name: str
    soc: str
    values: dict[str, str]


def read_boards(tree: Path) -> list[Board]:
    """Return the boards that take a root file system, by name.

    Args:
        tree: `Linux_for_Tegra`.

    Raises:
        ImageError: There is none.
    """
    files = sorted(tree.glob("*.conf"))
    # A file that has names of its own is not listed a second time by its number.
    named = {path.resolve() for path in files if path.is_symlink()}
    boards = [
        board
        for path in files
        if (path.is_symlink() or path.resolve() not in named)
        and (board := _read(tree, path)) is not None
    ]
    if not boards:
        raise ImageError(f"{tree}: names no board: no .conf file with a CHIPID and a DTB_FILE")
    return boards


def choose(boards: Sequence[Board], names: Sequence[str]) -> list[Board]:
    """Return the boards that are meant; all, if none is named. They have one SoC.

    Raises:
        ImageError: One is unknown, or they have several: each needs an image of its own.
    """
    known = {board.name: board for board in boards}
    for name in names:
        if name not in known:
            raise ImageError(f"--board: found {name}; allowed: {', '.join(known)}")
    chosen = [known[name] for name in names] or list(boards)
    chips = sorted({board.soc for board in chosen})
    if len(chips) > 1:
        listed = "; ".join(
            f"{chip}: {', '.join(board.name for board in chosen if board.soc == chip)}"
            for chip in chips
        )
        raise ImageError(f"these boards need different images; name one with --board. {listed}")
    return chosen


def flash_commands(board: Board, tree: Path) -> list[str]:
    """Return what flashes a board that is in recovery mode; run in `tree`, as root.

    The first is where its file puts the system; there are further ones if it may go elsewhere.
    """
    values = board.values
    cable = "" if values["_UNIFIED_FLASH"] else " --network usb0"
    begin = f"./{FLASH}{cable} --showlogs"
    if device := values["EXTERNAL_DEVICE"]:
        options = f" --external-device {device}"
        if layout := values["EXTERNAL_PT_LAYOUT"]:
            options += f" -c {layout}"
        if layout := values["INTERNAL_PT_LAYOUT"]:
            options += f' -p "-c {layout}"'
        return [f"{begin}{options} {board.name} internal"]
    commands = [f"{begin} {board.name} internal"]
    layout = f"tools/kernel_flash/flash_l4t_{board.soc}_nvme.xml"
    if (tree / layout).exists():
        commands.append(f"{begin} --external-device nvme0n1p1 -c {layout} {board.name} external")
    return commands


def _read(tree: Path, path: Path) -> Board | None:
    """Return the board of a file; None if it is for parts of one, or takes no root file system."""
    try:
        done = subprocess.run(
            ["bash", "-c", _ASK, "bash", path.name],  # noqa: S607
            cwd=tree,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LDK_DIR": str(tree.resolve())},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_READ_S,
        )
    except subprocess.TimeoutExpired:
        raise ImageError(f"{path}: does not end when bash reads it") from None
    values = dict.fromkeys(_NAMES, "")
    for line in done.stdout.splitlines():
        name, _, value = line.partition("=")
        if name in values:
            values[name] = value
    chip = _CHIP.match(values["DTB_FILE"])
    if not values["CHIPID"] or chip is None or values["NO_ROOTFS"]:
        return None
    return Board(path.stem, f"t{chip['number']}", values)
