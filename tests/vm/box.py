"""A box in QEMU: its firmware, and a disk that it boots from by itself.

Emulated wholly, whether or not there is /dev/kvm: slow, and the same everywhere. Nothing reaches it
but this machine's loopback, by ssh and at the door of its sessions; and it reaches nothing.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from attrs import define

FIRMWARE = Path("/usr/share/OVMF")
TOOLS = {"qemu-system-x86_64": "qemu-system-x86", "openssl": "openssl", "ssh": "openssh-client"}
SSH_OPTIONS = (
    *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
    *("-o", "ConnectTimeout=60", "-o", "ConnectionAttempts=5"),
    *("-o", "BatchMode=yes", "-o", "LogLevel=ERROR"),
)
STICK = "/mnt"
ALIVE_S, COMMAND_S, LOOK_S, STOP_S = 6000, 600.0, 0.5, 10.0


def what_is_missing() -> str:
    """Say why there can be no box here; nothing if there can."""
    missing = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if not (FIRMWARE / "OVMF_CODE_4M.fd").exists():
        missing.append("ovmf")
    return f"not installed (Debian): {' '.join(missing)}" if missing else ""


@define
class Box:
    """One that runs, but between `cut_power` and `switch_on`.

    Attributes:
        command: By which it is switched on.
        console: What it has written to its serial line so far.
        port: Of ssh, on this machine's loopback.
        door: Of its sessions, there too.
        read: How much of that was looked at already.
    """

    command: Sequence[str]
    console: Path
    key: Path
    port: int
    door: int
    read: int = 0
    _process: subprocess.Popen[bytes] | None = None

    def switch_on(self) -> None:
        """Let it boot; what it says comes after what it has said before."""
        self._process = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, start_new_session=True
        )

    def cut_power(self) -> None:
        """End it as it is: what it has not written to its disk by now is lost."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(STOP_S)

    def stop(self) -> None:
        """End it."""
        if self._process is None:
            return
        self._process.terminate()  # timeout passes it on
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.cut_power()

    def wait_said(self, text: str, timeout_s: float) -> float:
        """Wait until it says what it has not been asked for yet; return how many seconds."""
        began = time.monotonic()
        while True:
            said = self.console.read_bytes()
            found = said.find(text.encode(), self.read)
            if found >= 0:
                self.read = found + len(text)
                return time.monotonic() - began
            end = said[-3000:].decode(errors="replace")
            assert self._process is not None
            assert self._process.poll() is None, f"the box is gone: {end}"
            assert time.monotonic() - began < timeout_s, f"in vain: {text!r}; it said: {end}"
            time.sleep(LOOK_S)

    def skip_said(self) -> None:
        """Look no more at what it has said by now."""
        self.read = self.console.stat().st_size

    def run(
        self, *command: str, check: bool = True, timeout_s: float = COMMAND_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in it, as its root."""
        ssh = ["ssh", "-i", str(self.key), "-p", str(self.port), *SSH_OPTIONS, "root@127.0.0.1"]
        done = subprocess.run(
            [*ssh, *command],
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def plug_in(self) -> None:
        """Show it the stick, as it is now, at `STICK`."""
        self.run("umount", STICK, check=False)
        self.run("mount", "-t", "9p", "-o", "trans=virtio,msize=262144,ro", "stick", STICK)


@contextmanager
def booted(disk: Path, stick: Path, key: Path, scratch: Path) -> Iterator[Box]:
    """Switch a box on, and off at the end, whatever happens.

    Args:
        disk: Is written to.
        stick: A folder that the box can read: `plug_in` lets it see what is there by then.
        key: Of ssh, that it lets in.
    """
    variables = scratch / "firmware"
    shutil.copyfile(FIRMWARE / "OVMF_VARS_4M.fd", variables)
    console = scratch / "console.log"
    console.touch()
    port, door = _free_port(), _free_port()
    flash = f"if=pflash,format=raw,file={FIRMWARE}/OVMF_CODE_4M.fd,readonly=on"
    share = f"local,path={stick},mount_tag=stick,security_model=none,readonly=on"
    network = f"user,model=virtio-net-pci,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22"
    network += f",hostfwd=tcp:127.0.0.1:{door}-:5555"
    command = [
        *("timeout", str(ALIVE_S), "qemu-system-x86_64", "-machine", "q35"),
        *("-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max", "-smp", "2", "-m", "1536"),
        *("-drive", flash, "-drive", f"if=pflash,format=raw,file={variables}"),
        *("-drive", f"file={disk},format=raw,if=virtio,cache=unsafe", "-nic", network),
        *("-virtfs", share),
        *("-chardev", f"file,id=console,path={console},append=on", "-serial", "chardev:console"),
        *("-display", "none", "-monitor", "none"),
    ]
    box = Box(command, console, key, port, door)
    box.switch_on()
    try:
        yield box
    finally:
        box.stop()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
