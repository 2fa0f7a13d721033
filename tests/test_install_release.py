"""A robot installs what was signed, whole and for it, or nothing."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from support.wheels import PYTHON_TAG, write_house, write_wheel

from tools import install_release
from tools.install_release import Refused, choose, read_sums, signer_of, unpack
from tools.release.__main__ import sign
from tools.release.archive import SUMS, pack, write_requirements, write_sums

SCRIPT = Path(install_release.__file__)
UV = Path(sys.executable).with_name("uv")
MACHINE = platform.machine()
TAR = f"appliance-1.0-{MACHINE}-{PYTHON_TAG}.tar"
OTHER_MACHINE = {"x86_64": "aarch64", "aarch64": "x86_64"}[MACHINE]


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys `ours` and `foreign`, and the file that allows the first."""
    directory = tmp_path_factory.mktemp("keys")
    for name in ("ours", "foreign"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name]
        subprocess.run([*command, "-f", directory / name], check=True)
    public = (directory / "ours.pub").read_text()
    (directory / "allowed").write_text(f'workshop namespaces="appliance-release" {public}')
    return directory


class Release:
    """A signed release, and a robot to install it on."""

    def __init__(self, directory: Path, keys: Path) -> None:
        self.directory = directory / "release"
        self.house = directory / "house"
        self.root = directory / "robot"
        self.tar = self.directory / TAR
        self.keys = keys
        self.directory.mkdir()
        self.make(f'#!/bin/sh\nexec {UV} "$@"\n')

    def make(self, uv: str) -> None:
        """Make it, with an installer."""
        write_house(self.house, uv)
        self.pack()

    def pack(self) -> None:
        """Put the wheelhouse, as it is, into the release, and sign it."""
        write_requirements(self.house)
        pack(self.house, self.tar, timestamp_s=1_700_000_000)
        self.sign()

    def sign(self, key: str = "ours") -> None:
        """Sign what is there."""
        (self.directory / install_release.SIGNATURE).unlink(missing_ok=True)
        write_sums(self.directory, list(self.directory.glob("*.tar")))
        sign(self.directory / SUMS, self.keys / key)

    def command(self, *words: str) -> list[str]:
        trust = ["--allowed-signers", str(self.keys / "allowed")]
        trust = [] if "--allow-unsigned" in words else trust
        return [
            sys.executable,
            str(SCRIPT),
            str(self.directory),
            f"--root={self.root}",
            *trust,
            *words,
        ]

    def install(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], "UV_INDEX_URL": "http://127.0.0.1:9/"}
        return subprocess.run(
            self.command(*words), capture_output=True, text=True, check=False, env=environment
        )

    def installed(self) -> list[str]:
        """What is in the folder of releases, but for the lock."""
        releases = self.root / "releases"
        found = releases.iterdir() if releases.exists() else ()
        return sorted(path.name for path in found if path.name != ".lock")


@pytest.fixture
def release(tmp_path: Path, keys: Path) -> Release:
    return Release(tmp_path, keys)


def test_it_is_installed_once(release: Release) -> None:
    final = release.root / "releases" / "1.0"
    first = release.install()
    assert (first.returncode, first.stdout) == (0, f"installed {final}\n"), first.stderr
    record = json.loads((final / "release.json").read_text())
    assert (record["version"], record["signer"]) == ("1.0", "workshop")
    before = {path: path.lstat().st_ctime_ns for path in final.rglob("*")}
    again = release.install()
    assert (again.returncode, again.stdout) == (0, f"unchanged {final}\n"), again.stderr
    assert {path: path.lstat().st_ctime_ns for path in final.rglob("*")} == before
    assert release.installed() == ["1.0"]
    # By the path that it has now, and by any link to it.
    (release.root / "current").symlink_to("releases/1.0")
    for path in (final, release.root / "current"):
        said = subprocess.run([path / "bin/appliance"], capture_output=True, text=True, check=True)
        assert said.stdout == "appliance 1.0\n"
    listed = subprocess.run(
        [UV, "pip", "list", "--offline", "--format=freeze", "--python", final / "bin/python"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert listed.stdout.split() == ["appliance==1.0", "hdrh==1.0", "onnxruntime==1.0"]


def test_one_that_sees_the_system_is_beside_the_one_that_does_not(release: Release) -> None:
    for words, name in (((), "1.0"), (("--system-site-packages",), "1.0-system")):
        done = release.install(*words)
        final = release.root / "releases" / name
        assert (done.returncode, done.stdout) == (0, f"installed {final}\n"), done.stderr
        sees = f"include-system-site-packages = {str(bool(words)).lower()}"
        assert sees in (final / "pyvenv.cfg").read_text()
        assert release.install(*words).stdout == f"unchanged {final}\n"
    assert release.installed() == ["1.0", "1.0-system"]


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def harm_release(release: Release, harm: str) -> list[str]:  # noqa: C901  # one line each
    """Do harm; return what the installer is told besides."""
    directory = release.directory
    if harm == "flip the tar":
        flip(release.tar, 5000)
    elif harm == "flip the sums":
        flip(directory / SUMS, 3)
    elif harm == "flip the signature":
        flip(directory / "SHA256SUMS.sig", 60)
    elif harm == "unsigned":
        (directory / "SHA256SUMS.sig").unlink()
    elif harm == "foreign":
        release.sign("foreign")
    elif harm == "other purpose":
        (directory / "SHA256SUMS.sig").unlink()
        command = ["ssh-keygen", "-q", "-Y", "sign", "-n", "mail", "-f", release.keys / "ours"]
        subprocess.run([*command, directory / SUMS], check=True)
    elif harm == "nobody allowed":
        return ["--allowed-signers", str(directory / "gone")]
    elif harm == "other machine":
        release.tar.rename(directory / TAR.replace(MACHINE, OTHER_MACHINE))
        release.sign()
    elif harm == "other Python":
        release.tar.rename(directory / TAR.replace(PYTHON_TAG, "cp27"))
        release.sign()
    elif harm == "not carried":
        shutil.copy(release.tar, directory / TAR.replace(MACHINE, OTHER_MACHINE))
        release.sign()
        release.tar.unlink()
    else:
        release.tar.unlink()
        release.sign()
    return []


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        ("flip the tar", f"{TAR}: was damaged or changed: its sha256 is"),
        ("flip the sums", "SHA256SUMS: is not what workshop signed as appliance-release"),
        ("flip the signature", "SHA256SUMS.sig: is signed by a key that"),
        ("unsigned", "is not signed: SHA256SUMS.sig is missing"),
        ("foreign", "SHA256SUMS.sig: is signed by a key that"),
        ("other purpose", "SHA256SUMS: is not what workshop signed as appliance-release"),
        ("nobody allowed", "no such file; it names the keys that may sign"),
        ("other machine", f"wrong architecture: this robot is {MACHINE} with {PYTHON_TAG}"),
        ("other Python", f"wrong Python: this robot is {MACHINE} with {PYTHON_TAG}"),
        ("not carried", f"and {TAR} is not there, but ['appliance-1.0-{OTHER_MACHINE}-"),
        ("empty", "names no wheelhouse"),
    ],
)
def test_what_is_not_right_is_named_and_not_installed(
    release: Release, harm: str, told: str
) -> None:
    words = harm_release(release, harm)
    done = release.install(*words)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert told in done.stderr
    assert release.installed() == []


def test_without_a_signature_only_where_that_is_asked_for(release: Release) -> None:
    (release.directory / "SHA256SUMS.sig").unlink()
    done = release.install("--allow-unsigned")
    assert done.returncode == 0, done.stderr
    flip(release.tar, 5000)
    assert "was damaged or changed" in release.install("--allow-unsigned").stderr


def test_it_can_be_checked_alone(release: Release) -> None:
    done = release.install("--check")
    assert (done.returncode, done.stdout) == (0, f"checked {release.tar}\n")
    assert not release.root.exists()


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        ("link", "'wheels/link' does not belong into a wheelhouse"),
        ("above", "'../above' does not belong into a wheelhouse"),
        ("more", "its files are not those that its SHA256SUMS names"),
        ("lack", "hdrh"),
        ("broken", "does not start"),
    ],
)
def test_what_is_signed_may_be_wrong_all_the_same(release: Release, harm: str, told: str) -> None:
    if harm in ("link", "above", "more"):
        name = {"link": "wheels/link", "above": "../above", "more": "wheels/more"}[harm]
        with tarfile.open(release.tar, "a") as archive:
            entry = tarfile.TarInfo(name)
            if harm == "link":
                entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(entry)
        release.sign()
    elif harm == "lack":
        next((release.house / "wheels").glob("hdrh*")).unlink()
        release.pack()
    else:
        write_wheel(release.house / "wheels", "hdrh", {"hdrh.py": "raise SystemExit('ill')\n"})
        release.pack()
    done = release.install()
    assert (done.returncode, done.stdout) == (1, "")
    assert told in done.stderr
    assert release.installed() == []


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\5\6" + b"\xff" * 18, b"PK\3\4" * 99])
@pytest.mark.parametrize("wheel", ["hdrh", "uv"])
def test_a_wheel_that_is_none_is_named(release: Release, wheel: str, content: bytes) -> None:
    damaged = next((release.house / "wheels").glob(f"{wheel}-*"))
    harm_wheel(release, damaged, content)
    is_told_in_one_line(release, f"{damaged.name}: is no whole wheel (")


def test_a_wheel_whose_content_is_damaged_is_named(release: Release) -> None:
    damaged = next((release.house / "wheels").glob("uv-*"))
    content = bytearray(damaged.read_bytes())
    content[content.index(b"exec ")] ^= 1
    harm_wheel(release, damaged, bytes(content))
    is_told_in_one_line(release, f"{damaged.name}: is no whole wheel (Bad CRC-32")


def harm_wheel(release: Release, wheel: Path, content: bytes) -> None:
    write_requirements(release.house)  # while it can be read
    wheel.write_bytes(content)
    pack(release.house, release.tar, timestamp_s=1_700_000_000)
    release.sign()


def is_told_in_one_line(release: Release, told: str) -> None:
    done = release.install()
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
    assert release.installed() == []


def test_a_tar_that_is_cut_off_anywhere_is_told_in_one_line(
    release: Release, tmp_path: Path
) -> None:
    whole = release.tar.read_bytes()
    ends = [*range(0, len(whole), 257), *range(0, len(whole), 512)]
    for end in ends:
        shutil.rmtree(tmp_path / "into", ignore_errors=True)
        (tmp_path / "into").mkdir()
        release.tar.write_bytes(whole[:end])
        with release.tar.open("rb") as tar, contextlib.suppress(Refused):
            unpack(tar, tmp_path / "into")
    release.tar.write_bytes(whole[: len(whole) // 2])
    release.sign()
    is_told_in_one_line(release, f"{TAR}: is no whole tar (")
    release.tar.write_bytes(b"\x1f\x8b" + b"no tar" * 500)
    release.sign()
    is_told_in_one_line(release, f"{TAR}: is no whole tar (")


@pytest.mark.parametrize("content", [b"\0" * 99, b"\xff\xfe", b"\x80SHA256", b"SHA 256"])
def test_sums_that_are_no_text_are_told_in_one_line(release: Release, content: bytes) -> None:
    sums = release.directory / SUMS
    sums.write_bytes(content)
    sums.with_name(install_release.SIGNATURE).unlink()
    sign(sums, release.keys / "ours")
    is_told_in_one_line(release, f"{sums}: ")


def test_another_release_of_the_same_version_is_refused(release: Release) -> None:
    assert release.install().returncode == 0
    write_wheel(release.house / "wheels", "hdrh", {"hdrh.py": "NEW = 1\n"})
    release.pack()
    done = release.install()
    assert done.returncode == 1
    assert "another release of this version is installed" in done.stderr
    assert release.installed() == ["1.0"]


@pytest.mark.parametrize("link", ["previous", "current", "next"])
@pytest.mark.parametrize("damaged", ["release.json", "bin/appliance"])
def test_one_that_is_damaged_is_replaced_unless_it_runs(
    release: Release, damaged: str, link: str
) -> None:
    assert release.install().returncode == 0
    final = release.root / "releases/1.0"
    (final / damaged).unlink()
    deployment = release.root / "deployments/1.0-x"
    deployment.mkdir(parents=True)
    (deployment / "release").symlink_to("../../releases/1.0")
    (release.root / link).symlink_to("deployments/1.0-x")
    again = release.install()
    if link == "previous":
        assert (again.returncode, again.stdout) == (0, f"installed {final}\n"), again.stderr
        assert (final / damaged).exists()
    else:
        assert again.returncode == 1
        needs = f"{final}: is damaged, and {release.root / link} needs it"
        assert needs in again.stderr
        assert not (final / damaged).exists()
    assert release.installed() == ["1.0"]


@pytest.mark.parametrize("record", ["", "[]", "{}", "null", '{"sha256": 1}'])
def test_one_whose_record_is_damaged_is_replaced(release: Release, record: str) -> None:
    assert release.install().returncode == 0
    path = release.root / "releases/1.0/release.json"
    whole = path.read_text()
    path.write_text(record)
    again = release.install()
    assert again.stdout == f"installed {path.parent}\n", again.stderr
    assert path.read_text() == whole
    assert release.install().stdout == f"unchanged {path.parent}\n"


def gated(directory: Path) -> str:
    """An installer that waits in the middle, once `gate` is there, and says so in `reached`."""
    os.mkfifo(directory / "reached")
    return f"""#!/bin/sh
{UV} "$@" || exit
if [ "$1" = pip ] && [ -e {directory}/gate ]; then
    echo > {directory}/reached
    exec sleep 600
fi
"""


def wait_within(release: Release, directory: Path) -> subprocess.Popen[bytes]:
    """Start an install, and return while it is in the middle."""
    release.make(gated(directory))
    (directory / "gate").touch()
    process = subprocess.Popen(release.command(), start_new_session=True)
    (directory / "reached").read_bytes()  # blocks until it is there
    return process


def kill(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_one_that_was_killed_leaves_nothing_complete(release: Release, tmp_path: Path) -> None:
    kill(wait_within(release, tmp_path))
    assert release.installed() == [".installing"]
    (tmp_path / "gate").unlink()
    again = release.install()
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith("installed ")
    assert release.installed() == ["1.0"]


def test_two_at_once_do_not_meet(release: Release, tmp_path: Path) -> None:
    first = wait_within(release, tmp_path)
    try:
        second = release.install()
        assert second.returncode == 1
        assert "another install runs" in second.stderr
        assert release.installed() == [".installing"]
    finally:
        kill(first)


@pytest.mark.parametrize("limit", ["size=1m", "nr_inodes=40"])
def test_a_full_disk_leaves_nothing(release: Release, limit: str) -> None:
    """In a small file system of its own: too few bytes are foreseen, too few inodes are not."""
    write_wheel(release.house / "wheels", "onnxruntime", {"onnxruntime.py": "#" * 3_000_000})
    release.pack()
    release.root.mkdir()
    script = (
        f'mount -t tmpfs -o {limit} tmpfs "$1" && shift && "$@"; echo "rc $?"'
        f"; ls -A {release.root}/releases"
    )
    inside = ["unshare", "--mount", "--map-root-user", "sh", "-c", script, "sh", str(release.root)]
    if subprocess.run([*inside[:3], "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no file system can be mounted here")
    done = subprocess.run(
        [*inside, *release.command()], capture_output=True, text=True, check=False
    )
    assert done.stdout == "rc 1\n.lock\n"
    assert "the disk is full" in done.stderr


@pytest.mark.parametrize("text", ["x", "0" * 64 + " one space", "0" * 64 + "  a b", "\xff"])
def test_sums_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / SUMS
    path.write_text(text, encoding="latin-1")
    with pytest.raises(Refused, match="SHA256SUMS: "):
        read_sums(path)


def test_the_wheelhouse_is_chosen_by_machine_and_python(tmp_path: Path) -> None:
    names = [
        f"appliance-2.0-{arch}-{tag}.tar"
        for arch in ("x86_64", "aarch64")
        for tag in ("cp310", "cp312")
    ]
    sums = dict.fromkeys(names, "0" * 64)
    (tmp_path / names[3]).touch()
    assert choose(tmp_path, sums, "aarch64", "cp312").path == tmp_path / names[3]
    with pytest.raises(Refused, match=r"is aarch64 with cp311, the release is for cp310, cp312"):
        choose(tmp_path, sums, "aarch64", "cp311")
    with pytest.raises(Refused, match=r"is riscv64 with cp311, the release is for aarch64, x86_64"):
        choose(tmp_path, sums, "riscv64", "cp311")


def test_without_openssh_it_says_what_to_install(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Refused, match="ssh-keygen: No such file or directory; install OpenSSH"):
        signer_of(release.directory, release.keys / "allowed")
