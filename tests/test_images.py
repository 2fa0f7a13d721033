"""What stops an image before it is made, and what its files say; `make test-image` boots one."""

from __future__ import annotations

import configparser
import dataclasses
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from images import ImageError
from images.provision import made
from images.root import DIRECTORIES, UNITS, X86, BoxContents, make_root
from images.tools import PACKAGES, need

OVERLAY = X86 / "root"


def contents(directory: Path, keyring: str) -> BoxContents:
    (directory / "release").mkdir()
    (directory / "release/SHA256SUMS").touch()
    (directory / "keyring.pem").write_text(keyring)
    return BoxContents(
        release=directory / "release", allowed_signers=None, keyring=directory / "keyring.pem"
    )


def test_a_private_key_does_not_get_onto_boxes(tmp_path: Path) -> None:
    given = contents(tmp_path, "-----BEGIN PRIVATE KEY-----\n")
    (tmp_path / "ansible-playbook").touch()
    with pytest.raises(ImageError, match=r"keyring\.pem: holds a private key"):
        make_root(given, tmp_path, tmp_path)
    assert not (tmp_path / "root").exists()


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    given = BoxContents(
        release=tmp_path / "appliance-9", allowed_signers=None, keyring=tmp_path / "keyring.pem"
    )
    (tmp_path / "ansible-playbook").touch()
    with pytest.raises(ImageError, match="appliance-9: is no release"):
        make_root(given, tmp_path, tmp_path)
    (tmp_path / "appliance-9").mkdir()
    (tmp_path / "appliance-9/SHA256SUMS").touch()
    with pytest.raises(ImageError, match=r"--keyring: .*keyring\.pem: no such file"):
        make_root(given, tmp_path, tmp_path)


def test_missing_programs_are_named_with_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(ImageError, match=r"apt install e2fsprogs mtools$"):
        need("mcopy", "mkfs.ext4")


def test_each_program_that_is_needed_has_a_package() -> None:
    sources = "".join(path.read_text() for path in X86.parent.rglob("*.py"))
    for program in PACKAGES:
        assert sources.count(f'"{program}"') >= 2, program


def test_what_both_slots_share_is_there_on_a_new_box() -> None:
    lines = [line.split() for line in (OVERLAY / "etc/fstab").read_text().splitlines()]
    shared = [words[0] for words in lines if words[0].startswith("/data/")]
    assert {path.removeprefix("/data/") for path in shared} == {*DIRECTORIES} - {"ssh"}
    assert "/" not in [words[1] for words in lines if words[0] != "#"]


def test_units_of_the_image_are_enabled() -> None:
    ours = {path.name for path in (OVERLAY / "etc/systemd/system").glob("*.service")}
    assert ours <= {*UNITS}


def test_grub_and_rauc_mean_the_same_partitions() -> None:
    system = configparser.ConfigParser()
    system.read(OVERLAY / "etc/rauc/system.conf")
    order = sorted(path.read_text() for path in (OVERLAY / "etc/repart.d").glob("2*.conf"))
    grub = (X86 / "grub.cfg").read_text()
    for number, letter in enumerate("AB"):
        slot = system[f"slot.rootfs.{number}"]
        label = f"root_{letter.lower()}"
        assert (slot["bootname"], slot["device"]) == (letter, f"/dev/disk/by-partlabel/{label}")
        assert f"Label={label}\n" in order[number]
        assert f"part=gpt{number + 2}; set label={label};" in grub


@pytest.mark.skipif(shutil.which("grub-script-check") is None, reason="GRUB is not installed")
def test_grub_can_read_its_file() -> None:
    subprocess.run(["grub-script-check", X86 / "grub.cfg"], check=True)


def test_shellcheck_finds_nothing() -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    subprocess.run([shellcheck, *(OVERLAY / "usr/local/sbin").iterdir()], check=True)


def options(place: Path, keyring: str = "") -> list[str]:
    """Return the command that makes an image of nothing, in a directory of its own."""
    contents(place, keyring)
    (place / "ansible-playbook").touch()
    (place / "sources").touch()
    given = {"keyring": "keyring.pem", "sources": "sources", "ansible": "", "work": "work"}
    words = [f"--{name}={place / file}" for name, file in given.items()]
    return [
        *(sys.executable, "-m", "images", "image", str(place / "release"), "--allow-unsigned"),
        *(*words, f"--out={place / 'out'}"),
    ]


def heard(descriptor: int) -> bytes:
    """Return what comes next; nothing, once nobody is left who could say something."""
    assert select.select([descriptor], [], [], 60)[0]
    return os.read(descriptor, 100)


@pytest.mark.skipif(os.geteuid() != 0, reason="images are made by root")
def test_ended_in_the_middle_it_leaves_nothing(tmp_path: Path) -> None:
    command = options(tmp_path)
    alive = tmp_path / "alive"
    os.mkfifo(alive)
    fetch = tmp_path / "mmdebstrap"
    fetch.write_text(f"#!/bin/sh\nexec >{alive}\necho fetching\nsleep 600 &\nsleep 600\n")
    fetch.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    said = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)
    with subprocess.Popen(command, env=environment, cwd=X86.parents[1]) as process:
        assert heard(said) == b"fetching\n"
        second = subprocess.run(
            command, cwd=X86.parents[1], capture_output=True, text=True, check=False, timeout=60
        )
        assert second.returncode == 1
        assert "work: another image is being made there" in second.stderr
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM
        assert heard(said) == b""  # not before all that it started has ended
    os.close(said)
    assert list((tmp_path / "work").iterdir()) == []


def test_what_was_left_half_made_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".root-abc/slot").mkdir(parents=True)
    with made(tmp_path / "root") as partial:
        assert [*tmp_path.iterdir()] == [partial]
    assert [*tmp_path.iterdir()] == [tmp_path / "root"]


@pytest.mark.parametrize("version", ["../..", "-x", "a b", "1/2"])
def test_a_version_is_no_path(tmp_path: Path, version: str) -> None:
    (tmp_path / "ansible-playbook").touch()
    given = dataclasses.replace(contents(tmp_path, ""), version=version)
    with pytest.raises(ImageError, match="cannot be the version of an image"):
        make_root(given, tmp_path, tmp_path)


def test_a_place_that_is_none_is_named(tmp_path: Path) -> None:
    command = options(tmp_path)
    (tmp_path / "work").touch()
    done = subprocess.run(
        command, cwd=X86.parents[1], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert str(tmp_path / "work") in done.stderr
