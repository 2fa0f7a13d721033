"""Machines with a real systemd: Debian in systemd-nspawn, as copies of one root.

Roots are layers of overlayfs. The lowest, Debian, is made once by mmdebstrap; whoever needs more
makes a layer on top of it, once as well. A machine writes to a layer of its own, which is gone with
it. Each has its own network: a loopback, or a namespace that it is given. Needs root.

Nothing here knows what the machines are for; imports nothing of the appliance.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from attrs import define

SUITE = "bookworm"
PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "procps", "nftables", "iproute2"),
    *("python3", "python3-venv", "openssh-server", "sudo", "python3-apt"),
)
TOOLS = ("systemd-nspawn", "mmdebstrap", "nsenter")

BOOT_S, STOP_S, COMMAND_S = 60.0, 15.0, 60.0
LOOK_S = 0.05

POWER_OFF = signal.SIGRTMIN + 4
"""What the first process of a machine takes as `systemctl poweroff`."""

# One hierarchy of cgroups, whatever the host has: with the older kind, processes of a service that
# has ended are left over.
ENVIRONMENT = {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}

Run = Callable[[Sequence[str]], None]


def what_is_missing() -> str:
    """Say why there can be no machines here; nothing if there can."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if os.geteuid() != 0:
        return "machines need root"
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: systemd-container mmdebstrap)"
    return ""


def debian(cache: Path) -> Path:
    """Return the root that all others begin with; made if it is not there."""
    root = cache / f"{SUITE}-{'-'.join(PACKAGES)}"
    if root.exists():
        return root
    cache.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".root-", dir=cache))
    try:
        subprocess.run(
            [
                *("mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}"),
                *(SUITE, str(partial)),
            ],
            check=True,
            timeout=600,
        )
        # Nothing waits for a network, a console or a set time.
        for unit in ("systemd-timesyncd", "console-getty", "systemd-networkd-wait-online"):
            link = partial / "etc/systemd/system" / f"{unit}.service"
            link.unlink(missing_ok=True)
            link.symlink_to("/dev/null")
        (partial / "etc/machine-id").write_text("")
        partial.chmod(0o755)
        partial.rename(root)
    except BaseException:
        shutil.rmtree(partial)
        raise
    return root


def layer(
    cache: Path, name: str, below: Sequence[Path], prepare: Callable[[Path, Run], None]
) -> Path:
    """Return a layer on top of others; made if it is not there.

    Args:
        name: Of its directory in `cache`: another name for another content.
        below: Lowest first.
        prepare: Is given the root to change, and what runs a command in it, without a boot.
    """
    made = cache / name
    if made.exists():
        return made
    cache.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".layer-", dir=cache))
    try:
        with _mounted(partial, below) as root:

            def run(command: Sequence[str]) -> None:
                subprocess.run(
                    [
                        *("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--pipe"),
                        *("--private-network", f"--machine={name}"[:64], "-D", str(root)),
                        *command,
                    ],
                    check=True,
                    timeout=600,
                    env=os.environ | ENVIRONMENT,
                    stdin=subprocess.DEVNULL,
                )

            prepare(root, run)
        (partial / "upper").rename(made)
    finally:
        shutil.rmtree(partial)
    return made


@define(eq=False)
class Machine:
    """One that runs, but between `cut_power` and `boot`.

    Attributes:
        root: Its files, as seen from outside.
        console: A file with what it says while it boots.
        command: By which it is started.
        first_pid: Its init, as seen from outside.
    """

    name: str
    root: Path
    console: Path
    command: Sequence[str]
    first_pid: int = 0
    _process: subprocess.Popen[bytes] | None = None

    def boot(self) -> None:
        """Start it, and wait until all its units have started."""
        with self.console.open("wb") as console:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env=os.environ | ENVIRONMENT,
                start_new_session=True,
            )
        deadline = time.monotonic() + BOOT_S
        while True:
            said = self.console.read_text("utf-8", "replace")[-4000:]
            assert self._process.poll() is None, f"{self.name} did not boot: {said}"
            assert time.monotonic() < deadline, f"{self.name} does not come up: {said}"
            pids = _children(self._process.pid)
            if pids:
                self.first_pid = pids[0]
                state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
                if state in ("running", "degraded"):
                    return
            time.sleep(LOOK_S)

    def cut_power(self) -> None:
        """End it as it is, with all that runs in it."""
        assert self._process is not None
        os.kill(self.first_pid, signal.SIGKILL)
        self._process.wait(STOP_S)

    def stop(self) -> None:
        """Power it off by its own init; pull the plug if that takes too long."""
        if self._process is None:
            return
        for ask in (POWER_OFF, signal.SIGKILL):  # with its init goes all that runs in it
            for pid in _children(self._process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, ask)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_S)
                return
        self._process.kill()
        self._process.wait(STOP_S)

    def run(
        self, *command: str, check: bool = True, timeout_s: float = COMMAND_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in it, as its root."""
        done = subprocess.run(
            ["nsenter", "--all", "--target", str(self.first_pid), "--", *command],
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file in it, of root's."""
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(mode)

    def wait_until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> float:
        """Return after how many seconds it held."""
        began = time.monotonic()
        while not condition():
            took = time.monotonic() - began
            assert took < timeout_s, f"{self.name}: in vain: {what}"
            time.sleep(LOOK_S)
        return time.monotonic() - began


@contextmanager
def machine(
    name: str,
    layers: Sequence[Path],
    scratch: Path,
    *,
    network: Path | None = None,
    options: Sequence[str] = (),
) -> Generator[Machine, None, None]:
    """Boot a machine, and power it off at the end, whatever happens.

    Args:
        layers: Of its root, lowest first.
        scratch: Where what it writes goes; on no overlayfs.
        network: A network namespace that is to be its own; None: it has a loopback alone.
        options: Further ones of systemd-nspawn.
    """
    place = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=scratch))
    try:
        with _mounted(place, layers) as root:
            (root / "etc/hostname").write_text(f"{name}\n")
            outside = "--private-network"
            if network is not None:
                outside = f"--network-namespace-path={network}"
            command = (
                *("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot"),
                *(f"--machine={name}", "--link-journal=no", "--resolv-conf=off"),
                *(outside, "-D", str(root), *options),
            )
            made = Machine(name, root, place / "console.log", command)
            try:
                made.boot()
                yield made
            finally:
                made.stop()
    finally:
        shutil.rmtree(place)


def _children(pid: int) -> list[int]:
    try:
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except OSError:
        return []


@contextmanager
def _mounted(place: Path, layers: Sequence[Path]) -> Generator[Path, None, None]:
    """Lay a layer of its own, `place/upper`, over others, and give the root that they make."""
    upper, work, root = (place / each for each in ("upper", "work", "root"))
    for each in (upper, work, root):
        each.mkdir(mode=0o755)
    lower = ":".join(str(each.absolute()) for each in reversed(layers))
    how = f"lowerdir={lower},upperdir={upper.absolute()},workdir={work.absolute()}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", how, str(root)], check=True)
    try:
        yield root
    finally:
        subprocess.run(["umount", str(root)], check=True)
