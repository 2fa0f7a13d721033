"""What goes into a release, and what stops one from being made."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from support.wheels import write_house, write_wheel

from tools.release import ReleaseError
from tools.release.__main__ import release
from tools.release.archive import pack, write_requirements
from tools.release.bill import bill
from tools.release.locks import Pin, read_lock, server_lock
from tools.release.targets import ALL, PYTHONS, Target, chosen
from tools.release.wheels import download, find_pythons, inspect

ROOT = Path(__file__).parent.parent
ARM = Target("aarch64", "cp310")
HASH = "--hash=sha256:" + "0" * 64


def test_a_target_knows_its_tags() -> None:
    assert len(ALL) == 6
    assert ARM.python_version == "3.10"
    assert ARM.tar_name("1.2") == "appliance-1.2-aarch64-cp310.tar"
    assert ARM.extension_suffix == ".cpython-310-aarch64-linux-gnu.so"
    assert ARM.platforms[0] == "manylinux_2_28_aarch64"
    assert {"manylinux_2_17_aarch64", "manylinux2014_aarch64"} < set(ARM.platforms)
    assert not any("x86" in platform for platform in ARM.platforms)


def test_targets_are_chosen_by_name() -> None:
    assert chosen([]) == ALL
    assert chosen(["aarch64-cp310"]) == (ARM,)
    with pytest.raises(ReleaseError, match=r"aarch64-cp27: no target; there are x86_64-cp310"):
        chosen(["aarch64-cp27"])


@pytest.mark.parametrize("python", PYTHONS)
def test_the_locks_pin_all_with_hashes_and_no_index(python: str) -> None:
    path = ROOT / server_lock(python)
    pins = {pin.name: pin for pin in read_lock(path)}
    assert {"uv", "hdrhistogram", "trio", "onnxruntime", "simplejpeg", "soundfile"} <= set(pins)
    assert "appliance" not in pins
    assert "://" not in path.read_text()
    if python == "cp310":  # the last that there are for it
        assert (pins["numpy"].version, pins["onnxruntime"].version) == ("2.2.6", "1.23.2")


@pytest.mark.parametrize("name", ["build.txt", "release.txt"])
def test_what_makes_a_release_is_locked_too(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text()
    assert "://" not in text
    entries = text.partition("\n")[2].replace("\\\n", " ").splitlines()
    assert entries
    assert all("==" in entry and " --hash=sha256:" in entry for entry in entries)


@pytest.mark.parametrize(
    "line", ["numpy==1.0", f"numpy>=1.0 {HASH}", "--index-url x", "numpy==1.0 --hash=md5:0"]
)
def test_a_lock_with_anything_else_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "lock.txt"
    path.write_text(f"# a comment\nattrs==1.0 \\\n    {HASH}\n{line}\n")
    with pytest.raises(ReleaseError, match=r"lock\.txt: found .* run `make locks`"):
        read_lock(path)


def test_a_lock_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=r"gone\.txt: No such file"):
        read_lock(tmp_path / "gone.txt")


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where pip finds wheels, instead of in an index."""
    there = tmp_path / "there"
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(there))
    return there


def pin_of(wheel: Path) -> Pin:
    hashed = subprocess.run(["sha256sum", wheel], capture_output=True, text=True, check=True)
    name, version, *_ = wheel.name.split("-")
    return Pin(name, version, (f"--hash=sha256:{hashed.stdout.split()[0]}",))


def test_the_wheel_for_the_target_is_downloaded(tmp_path: Path, offline: Path) -> None:
    wanted = write_wheel(offline, "arms", tag="cp310-cp310-manylinux_2_26_aarch64")
    for tag in ("cp310-cp310-manylinux_2_26_x86_64", "cp311-cp311-manylinux_2_26_aarch64"):
        write_wheel(offline, "arms", tag=tag)
    (tmp_path / "wheels").mkdir()
    download(ARM, [pin_of(wanted), Pin("hdrhistogram", "1.0", (HASH,))], tmp_path / "wheels")
    assert [path.name for path in (tmp_path / "wheels").iterdir()] == [wanted.name]


def test_a_wheel_that_is_missing_is_named_with_the_platform(tmp_path: Path, offline: Path) -> None:
    wheel = write_wheel(offline, "arms", tag="cp310-cp310-manylinux_2_34_aarch64")
    with pytest.raises(
        ReleaseError, match=r"arms==1\.0: there is no wheel for aarch64 and cp310 \(manylinux_2_28"
    ):
        download(ARM, [pin_of(wheel)], tmp_path)


def test_a_wheel_that_is_not_what_was_locked_is_refused(tmp_path: Path, offline: Path) -> None:
    write_wheel(offline, "arms")
    with pytest.raises(ReleaseError, match="DO NOT MATCH THE HASHES"):
        download(ARM, [Pin("arms", "1.0", (HASH,))], tmp_path)


def test_a_python_that_is_missing_is_named() -> None:
    with pytest.raises(ReleaseError, match=r"python3\.10: not on this machine"):
        find_pythons(["no-such-python", "false"], ["cp310"])


SUFFIX = ARM.extension_suffix
ELF = b"\x7fELF" + bytes(14)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"a.py": ""}, "nothing in it is compiled"),
        ({f"a{SUFFIX}": ELF + b"\x3e\x00"}, "is for another machine than aarch64-cp310"),
        ({f"a{SUFFIX}": b"x" * 20}, "is for another machine"),
        ({"a.cpython-311-aarch64-linux-gnu.so": ELF + b"\xb7\x00"}, "does not end .cpython-310"),
        ({f"a{SUFFIX}": ELF + b"\xb7\x00"}, None),
    ],
)
def test_what_was_compiled_is_looked_at(
    tmp_path: Path, files: dict[str, str | bytes], told: str | None
) -> None:
    wheel = write_wheel(tmp_path, "a", files)
    if told is None:
        inspect(wheel, ARM)
    else:
        with pytest.raises(ReleaseError, match=told):
            inspect(wheel, ARM)


def test_the_same_wheels_make_the_same_tar(tmp_path: Path) -> None:
    tars: list[Path] = []
    for number in range(2):
        house = write_house(tmp_path / f"house-{number}", "#!/bin/sh\n")
        for path in house.rglob("*.whl"):
            os.utime(path, (number, number))
            path.chmod(0o600 + number)
        write_requirements(house)
        tars.append(tmp_path / f"{number}.tar")
        pack(house, tars[-1], timestamp_s=1_700_000_000)
    # The wheels themselves hold times; those of the second were written in the same two seconds.
    with tarfile.open(tars[0]) as archive:
        entries = archive.getmembers()
        archive.extractall(tmp_path / "unpacked", filter="data")
    names = [entry.name for entry in entries]
    assert names == sorted(names)
    assert {"SHA256SUMS", "requirements.txt"} == {name for name in names if "/" not in name}
    assert {(entry.uid, entry.gid, entry.mtime, entry.mode) for entry in entries} == {
        (0, 0, 1_700_000_000, 0o644)
    }
    subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"],
        cwd=tmp_path / "unpacked",
        check=True,
    )
    lock = (tmp_path / "unpacked" / "requirements.txt").read_text().splitlines()
    assert [line.partition(" ")[0] for line in lock] == [
        "appliance[images,server]==1.0",
        "hdrh==1.0",
        "onnxruntime==1.0",
    ]
    assert tars[0].read_bytes() == tars[1].read_bytes()


def test_the_bill_of_materials_lists_each_package_once(tmp_path: Path) -> None:
    houses = {target: write_house(tmp_path / str(target), "#!/bin/sh\n") for target in ALL[:2]}
    text = bill(houses, commit="c0ffee", timestamp_s=1_700_000_000)
    assert text == bill(houses, commit="c0ffee", timestamp_s=1_700_000_000)
    document = json.loads(text)
    assert document["metadata"]["timestamp"].startswith("2023-11-14T22:13:20")
    assert document["metadata"]["component"]["bom-ref"] == "appliance==1.0"
    components = {component["name"]: component for component in document["components"]}
    assert sorted(components) == ["hdrh", "onnxruntime", "uv"]
    assert len(document["components"]) == 3
    assert components["hdrh"]["purl"] == "pkg:pypi/hdrh@1.0"
    assert components["hdrh"]["licenses"] == [{"license": {"id": "MIT"}}]
    (file,) = components["hdrh"]["externalReferences"]
    assert file["url"] == "hdrh-1.0-py3-none-any.whl"
    assert pin_of(tmp_path / str(ALL[0]) / "wheels" / file["url"]).hashes == (
        f"--hash=sha256:{file['hashes'][0]['content']}",
    )
    assert [entry["name"] for entry in components["hdrh"]["properties"]] == [
        f"appliance:wheelhouse:{target}" for target in sorted(ALL[:2])
    ]
    needs = {entry["ref"]: entry.get("dependsOn") for entry in document["dependencies"]}
    assert needs["appliance==1.0"] == ["hdrh==1.0", "onnxruntime==1.0"]


def test_a_release_is_made_of_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "--quiet"], check=True)
    (tmp_path / "changed.py").write_text("")
    with pytest.raises(ReleaseError, match=r"commit these first(.|\n)*changed\.py"):
        release(ALL, {}, tmp_path / "dist", None)
    assert not (tmp_path / "dist").exists()
