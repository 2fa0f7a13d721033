"""What stops an image for Jetson before it is made, and which boards it is for."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.nvidia import AGX, NANO, NVME, THOR, pack_tree, write_sums, write_tree

from images import ImageError
from images.jetson.boards import choose, flash_commands, read_boards
from images.jetson.downloads import Downloads, is_same, read_release

L4T = "36.4.3"


@pytest.fixture
def downloads(tmp_path: Path) -> Downloads:
    bsp = pack_tree(write_tree(tmp_path, L4T), L4T)
    rootfs = tmp_path / f"tegra_linux_sample-root-filesystem_r{L4T}_aarch64.tbz2"
    rootfs.write_bytes(b"a root file system")
    return Downloads(bsp, rootfs, write_sums(tmp_path / "SHA256SUMS", bsp, rootfs))


def test_two_that_belong_together_are_taken(downloads: Downloads) -> None:
    assert downloads.check() == L4T


def test_what_is_not_there_is_named(downloads: Downloads, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"--rootfs: .*nowhere: no such file"):
        Downloads(downloads.bsp, tmp_path / "nowhere", downloads.sums).check()


def test_another_file_is_not_taken(downloads: Downloads) -> None:
    for name in ("Jetson_Linux_R36.4.3_x86_64.tbz2", "bsp.tbz2", "Jetson_Linux_aarch64.tbz2"):
        other = downloads.bsp.rename(downloads.bsp.with_name(name))
        with pytest.raises(ImageError, match=rf"{name}: wanted a name such as Jetson_Linux_R"):
            Downloads(other, downloads.rootfs, downloads.sums).check()
        other.rename(downloads.bsp)
    with pytest.raises(ImageError, match=r"wanted a name such as Tegra_Linux_Sample-Root"):
        Downloads(downloads.bsp, downloads.bsp, downloads.sums).check()


def test_those_of_two_releases_are_not_taken(downloads: Downloads) -> None:
    older = downloads.rootfs.rename(
        downloads.rootfs.with_name("Tegra_Linux_Sample-Root-Filesystem_R36.3.0_aarch64.tbz2")
    )
    with pytest.raises(ImageError, match=r"is L4T 36\.4\.3, and .* is 36\.3\.0; fetch both"):
        Downloads(downloads.bsp, older, downloads.sums).check()


def test_a_changed_one_is_not_taken(downloads: Downloads) -> None:
    data = bytearray(downloads.bsp.read_bytes())
    data[len(data) // 2] ^= 1
    downloads.bsp.write_bytes(data)
    with pytest.raises(ImageError, match=r"Jetson_Linux_R36.* was damaged or changed"):
        downloads.check()


def test_one_without_a_checksum_is_not_taken(downloads: Downloads) -> None:
    write_sums(downloads.sums, downloads.bsp)
    with pytest.raises(ImageError, match=r"SHA256SUMS: has no line for tegra_linux_sample"):
        downloads.check()
    downloads.sums.write_bytes(bytes(range(256)))
    with pytest.raises(ImageError, match=r"SHA256SUMS: has no line for "):
        downloads.check()


def test_the_release_is_read(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, L4T)
    assert read_release(tree / "nv_tegra/nv_tegra_release") == L4T
    assert is_same("36.4", "36.4.0")
    assert not is_same("36.4", "36.4.3")
    for text in ("", "# R36\n", "Ubuntu 22.04"):
        (tmp_path / "release").write_text(text)
        with pytest.raises(ImageError, match="does not say which L4T this is"):
            read_release(tmp_path / "release")


def test_boards_are_those_of_the_files(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, L4T)
    # One that only boots has no place for a system; one without a name goes by its number.
    assert [board.name for board in read_boards(tree)] == [AGX, NANO]
    (tree / f"{AGX}.conf").unlink()
    assert [board.name for board in read_boards(tree)] == [NANO, "p3737-0000-p3701-0000"]
    for path in tree.glob("*.conf"):
        path.unlink()
    with pytest.raises(ImageError, match="names no board"):
        read_boards(tree)


def test_boards_with_another_soc_need_another_image(tmp_path: Path) -> None:
    boards = read_boards(write_tree(tmp_path, "39.2.0", thor=True))
    assert {board.name: board.soc for board in boards} == {AGX: "t234", NANO: "t234", THOR: "t264"}
    with pytest.raises(ImageError, match=rf"--board. t234: {AGX}, {NANO}; t264: {THOR}"):
        choose(boards, [])
    assert [board.name for board in choose(boards, [THOR])] == [THOR]
    with pytest.raises(ImageError, match=rf"--board: found {AGX}x; allowed: {AGX}, {THOR}, {NANO}"):
        choose(boards, [f"{AGX}x"])


def test_each_is_flashed_as_its_file_says(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, "39.2.0", thor=True)
    said = {board.name: flash_commands(board, tree) for board in read_boards(tree)}
    flash, nvme = "./tools/kernel_flash/l4t_initrd_flash.sh", "--external-device nvme0n1p1 -c"
    by_cable = f"{flash} --network usb0 --showlogs"
    layouts, qspi = "tools/kernel_flash", "bootloader/generic/cfg/flash_t234_qspi.xml"
    assert said == {
        AGX: [f"{by_cable} {AGX} internal", f"{by_cable} {nvme} {NVME} {AGX} external"],
        NANO: [f'{by_cable} {nvme} {layouts}/flash_l4t_nvme.xml -p "-c {qspi}" {NANO} internal'],
        THOR: [f"{flash} --showlogs {nvme} {layouts}/flash_l4t_t264_nvme.xml {THOR} internal"],
    }
