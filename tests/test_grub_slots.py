"""Which slot of an image GRUB boots: its own file, read by a shell whose words are GRUB's."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from images.root import X86

# `test -s` finds a kernel where a file `A` or `B` is; what is set is what GRUB keeps in its block.
PLAYED = r"""
set() { declare -g "$1"; }
load_env() { . ./grubenv; }
save_env() { for each in ORDER A_OK A_TRY B_OK B_TRY; do echo "$each=\"${!each}\""; done >grubenv; }
regexp() { disk=hd0; }
linux() { echo "$slot $1 $*"; exit; }
root=hd0,gpt1
"""
BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(BASH is None, reason="bash is not installed")


class Box:
    """One whose power goes whenever GRUB has chosen."""

    def __init__(self, place: Path, kernels: str = "AB", order: str = "A B", **marks: int) -> None:
        self.place, self.marks = place, {"A_TRY": 0, "B_TRY": 0, **marks}
        for slot in kernels:
            (place / slot).write_text("a kernel")
        self.write(ORDER=order, **self.marks)

    def write(self, **values: object) -> None:
        lines = [f'{name}="{value}"\n' for name, value in values.items()]
        with (self.place / "grubenv").open("a") as file:
            file.writelines(lines)

    def boot(self) -> str:
        """Return the slot that is booted; small: as a last resort."""
        text = (X86 / "grub.cfg").read_text()
        for part, slot in (("gpt2", "A"), ("gpt3", "B")):
            assert f"part={part};" in text
            text = text.replace(f"part={part};", f"part={slot};")
        assert text.count('"($disk,$part)/vmlinuz"') == 2
        text = text.replace('"($disk,$part)/vmlinuz"', '"$part"')
        text = text.replace("($disk,$part)/vmlinuz", '"$part"')
        assert BASH
        done = subprocess.run(
            [BASH, "-c", PLAYED + text],
            cwd=self.place,
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
        assert done.stderr == ""
        slot, part, arguments = done.stdout.splitlines()[-1].split(" ", 2)
        assert slot == part
        assert f"root=PARTLABEL=root_{slot.lower()} " in arguments
        assert f" rauc.slot={slot} " in arguments
        return slot.lower() if " box.last_resort " in arguments else slot

    def boots(self, count: int) -> str:
        return "".join(self.boot() for _ in range(count))


def test_the_first_good_one_is_booted_until_its_tries_are_used(tmp_path: Path) -> None:
    assert Box(tmp_path, A_OK=1, B_OK=1).boots(6) == "AAABBB"


def test_the_order_is_that_of_the_last_update(tmp_path: Path) -> None:
    assert Box(tmp_path, order="B A", A_OK=1, B_OK=1).boots(6) == "BBBAAA"


def test_where_all_are_good_they_begin_anew(tmp_path: Path) -> None:
    assert Box(tmp_path, A_OK=1, B_OK=1).boots(13) == "AAABBBaAABBBa"


def test_a_bad_one_gets_a_try_where_no_good_one_has_any_left_and_no_more(tmp_path: Path) -> None:
    box = Box(tmp_path, A_OK=0, B_OK=1)
    assert box.boots(4) == "BBBa"
    # The gate there, which gives up, finds one to go to.
    assert 'B_TRY="0"' in (tmp_path / "grubenv").read_text().split()
    assert box.boots(7) == "BBBbBBa"


def test_one_that_was_called_good_has_all_its_tries_again(tmp_path: Path) -> None:
    box = Box(tmp_path, A_OK=1, B_OK=1)
    assert box.boots(2) == "AA"
    box.write(A_TRY=0)
    assert box.boots(4) == "AAAB"


def test_of_two_bad_ones_each_is_tried(tmp_path: Path) -> None:
    assert Box(tmp_path, A_OK=0, B_OK=0).boots(5) == "ababa"


def test_a_bad_one_that_stays_up_is_booted_again(tmp_path: Path) -> None:
    box = Box(tmp_path, A_OK=0, B_OK=0)
    assert box.boots(2) == "ab"
    for _ in range(3):
        box.write(B_TRY=0)  # as the gate does
        assert box.boot() == "b"


@pytest.mark.parametrize("is_good", [1, 0])
def test_what_has_no_kernel_is_left_out(tmp_path: Path, is_good: int) -> None:
    assert Box(tmp_path, kernels="B", A_OK=is_good, B_OK=1).boots(8) == "BBBbBBbB"


def test_the_first_image_is_booted_however_often_its_power_goes(tmp_path: Path) -> None:
    assert Box(tmp_path, kernels="A", A_OK=1, B_OK=0).boots(7) == "AAAaAAa"


@pytest.mark.parametrize("text", ["", 'ORDER="A B"\n', 'ORDER="A B"\nA_OK="x"\n'])
def test_a_block_that_says_nothing_means_slot_a(tmp_path: Path, text: str) -> None:
    box = Box(tmp_path)
    (tmp_path / "grubenv").write_text(text)
    assert box.boot() == "a"
