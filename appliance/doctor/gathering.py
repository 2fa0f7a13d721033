"""Looks at the box. Whatever could take long is another process's, with a common deadline.

Changes nothing: ports are bound and let go at once, and of an appliance only its status is asked.
"""

from __future__ import annotations

import ctypes
import errno
import grp
import json
import os
import pwd
import re
import resource
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import attrs
from attrs import frozen

from appliance.admin import client as admin
from appliance.config import LAST_PORT, Config, load
from appliance.doctor.facts import (
    ConfiguredFile,
    Disk,
    Engine,
    Facts,
    Kind,
    Model,
    Node,
    Person,
    Port,
    Running,
    Unit,
)
from appliance.errors import AdminError, AdminUnreachable, ConfigError
from appliance.io.unix_listener import somebody_listens
from appliance.models.engine_cache import SYSTEM_CACHE, EngineCache, default_cache
from appliance.models.repository import Repository
from appliance.workers.placement import slots_of

USUAL_CONFIG = Path("/etc/appliance/appliance.toml")
GROUP = "appliance"
SERVICE = "appliance.service"
SYSTEMD = Path("/run/systemd/system")

PATIENCE_S = 1.5
"""For all that other processes look at; they look at the same time."""
ANSWER_S = 1.0
REAP_S = 0.1

CACHE_BYTES = 1 << 30
MOST_PROCESSES = 100_000

TIME_ERROR = 5  # of adjtimex(2): not synchronised
TENSORRT = ("tensorrt_rtx", "tensorrt")

PROPERTIES = (
    "LoadState",
    "ActiveState",
    "UnitFileState",
    "Result",
    "User",
    "FragmentPath",
    "WorkingDirectory",
    "LimitMEMLOCK",
)

# In a process of its own: a driver that hangs, or a fault in a library, is not to be ours.
DRIVER = """
import ctypes, sys
try:
    driver = ctypes.CDLL("libcuda.so.1")
except OSError:
    sys.exit("no NVIDIA driver: libcuda.so.1 cannot be loaded")
count = ctypes.c_int(0)
code = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
if code or not count.value:
    sys.exit(f"the NVIDIA driver finds no GPU (CUDA error {code})")
"""
ONNXRUNTIME = "import onnxruntime"


def gather(config_path: str | None, socket_path: str | None, default_socket: str) -> Facts:
    """Look at everything; takes about two seconds at most.

    Args:
        config_path: None: the usual one, if it is there.
        socket_path: Of the admin socket; None: as the configuration says.
        default_socket: If that says nothing.
    """
    path = _config_path(config_path)
    deadline = time.monotonic() + PATIENCE_S
    driver, onnxruntime = _python(DRIVER), _python(ONNXRUNTIME)
    shown = _properties(deadline)
    fragment = shown.get("FragmentPath")
    exposure = (
        _start("systemd-analyze", "security", "--offline=true", "--no-pager", fragment)
        if fragment
        else None
    )
    config, config_error = _config(path)
    base = _base(shown.get("WorkingDirectory", ""))
    place = socket_path or config.admin.socket or default_socket
    running = _running(place)
    models, repository, repository_error = _models(config, base)
    runs_as = _runs_as(shown.get("User", ""), running)
    facts = Facts(
        config=str(path or ""),
        config_error=config_error,
        config_nodes=tuple(_nodes(path)) if path else (),
        runs_as=runs_as,
        caller=_person(os.geteuid()),
        group=_group(),
        socket=tuple(_nodes(Path(place))),
        files=tuple(_files(config, base)),
        wants_gpu=tuple(each.name for each in config.workers if each.device != "cpu"),
        tensorrt=tuple(_tensorrt()),
        synchronised=_is_synchronised(),
        ports=tuple(_ports(config)),
        disks=tuple(_disks(config, base)),
        arena_bytes=config.arena.bytes,
        memlock_bytes=_memlock(shown.get("LimitMEMLOCK", ""), running),
        models=models,
        repository=repository,
        repository_error=repository_error,
        engines=tuple(_engines()),
        running=running,
    )
    return attrs.evolve(
        facts,
        unit=_unit(shown, _output(exposure, deadline)) if SYSTEMD.is_dir() else None,
        driver_error=_complaint(driver, deadline),
        onnxruntime_error=_complaint(onnxruntime, deadline),
    )


# ---------------------------------------------------------------------------- other processes


def _start(*command: str) -> subprocess.Popen[str] | None:
    try:
        return subprocess.Popen(  # noqa: S603  commands of ours
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    except OSError:
        return None


def _python(program: str) -> subprocess.Popen[str] | None:
    return _start(sys.executable, "-c", program)


@frozen
class _Said:
    code: int
    out: str
    err: str


def _output(process: subprocess.Popen[str] | None, deadline: float) -> _Said | None:
    """Return what a process came to; None: it could not be started, or was not done in time."""
    if process is None:
        return None
    try:
        out, err = process.communicate(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        with suppress(subprocess.TimeoutExpired):  # one that is stuck in the kernel stays
            process.wait(REAP_S)
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        return None
    return _Said(process.returncode, out, err)


def _complaint(process: subprocess.Popen[str] | None, deadline: float) -> str | None:
    said = _output(process, deadline)
    if said is None:
        return None
    if said.code == 0:
        return ""
    lines = said.err.strip().splitlines()
    return lines[-1] if lines else f"ended with {said.code}"


def _properties(deadline: float) -> dict[str, str]:
    if not SYSTEMD.is_dir():
        return {}
    asked = [f"--property={','.join(PROPERTIES)}", "--no-pager", SERVICE]
    said = _output(_start("systemctl", "show", *asked), deadline)
    lines = said.out.splitlines() if said is not None else []
    found = {name: value for name, _, value in (line.partition("=") for line in lines)}
    return found if found.get("LoadState") not in (None, "not-found") else {}


def _unit(shown: dict[str, str], exposure: _Said | None) -> Unit:
    if not shown:
        return Unit()
    level = re.search(r"Overall exposure level .*: ([0-9.]+)", exposure.out) if exposure else None
    return Unit(
        fragment=shown.get("FragmentPath", ""),
        active=shown.get("ActiveState", ""),
        enabled=shown.get("UnitFileState", ""),
        result=shown.get("Result", ""),
        user=shown.get("User", ""),
        exposure=float(level[1]) if level else None,
    )


# ------------------------------------------------------------------------------ configuration


def _config_path(named: str | None) -> Path | None:
    if named is not None:
        return Path(named)
    return USUAL_CONFIG if os.path.lexists(USUAL_CONFIG) else None


def _config(path: Path | None) -> tuple[Config, str]:
    try:
        return load(path), ""
    except ConfigError as error:
        return Config(), str(error)


def _base(directory: str) -> Path:
    """Return where relative paths of the configuration begin."""
    return Path(directory.lstrip("!-")) if directory.lstrip("!-").startswith("/") else Path.cwd()


def _files(config: Config, base: Path) -> Iterator[ConfiguredFile]:
    def one(key: str, path: Path, *, secret: bool = False, writable: bool = False) -> Any:
        return ConfiguredFile(
            key=key, nodes=tuple(_nodes(base / path)), secret=secret, writable=writable
        )

    yield one("models.directory", Path(config.models.directory))
    if config.recording.directory:
        yield one("recording.directory", Path(config.recording.directory), writable=True)
    keys, tls = config.keys, config.ingest.grpc.tls
    if keys.required:
        yield one("keys.directory", Path(keys.directory))
        own = Path(keys.server_directory or f"{keys.directory}/server")
        if not keys.server_directory.startswith("$"):  # which the service manager lays out
            for name in dict.fromkeys((keys.server_key, *keys.server_key_of.values())):
                yield one("keys.server_key", own / f"{name}.key", secret=True)
    if tls.certificate:
        yield one("ingest.grpc.tls.certificate", Path(tls.certificate))
        if not tls.key.startswith("$"):
            yield one("ingest.grpc.tls.key", Path(tls.key), secret=True)
    if tls.client_ca:
        yield one("ingest.grpc.tls.client_ca", Path(tls.client_ca))


def _nodes(path: Path) -> Iterator[Node]:
    """Yield the directories above a path and then itself, as far as they are there."""
    path = path.absolute()
    for each in [*reversed(path.parents), path]:
        node = _node(each)
        yield node
        if node.kind in ("missing", "hidden"):
            return


def _node(path: Path) -> Node:
    try:
        found = path.stat()
    except PermissionError:
        return Node(path=str(path), kind="hidden")
    except OSError:
        return Node(path=str(path), kind="missing")
    return Node(
        path=str(path),
        kind=_kind(found.st_mode),
        mode=stat.S_IMODE(found.st_mode),
        uid=found.st_uid,
        gid=found.st_gid,
    )


def _kind(mode: int) -> Kind:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    return "socket" if stat.S_ISSOCK(mode) else "other"


# ------------------------------------------------------------------------------------- people


def _person(uid: int) -> Person:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return Person(name=f"user {uid}", uid=uid, gids=frozenset())
    gids = frozenset(os.getgrouplist(entry.pw_name, entry.pw_gid))
    own = frozenset(os.getgroups()) if uid == os.geteuid() else frozenset[int]()
    return Person(name=entry.pw_name, uid=uid, gids=gids | own)


def _runs_as(user: str, running: Running) -> Person:
    """Return whom the service runs as: as its unit says, or as it does; else who asks."""
    try:
        if user:
            return _person(pwd.getpwnam(user).pw_uid)
        if running.pid:
            return _person(Path(f"/proc/{running.pid}").stat().st_uid)
    except (KeyError, OSError):
        pass
    return _person(os.geteuid())


def _group() -> int:
    try:
        return grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return -1


# ------------------------------------------------------------------------------------ the box


def _is_synchronised() -> bool | None:
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "adjtimex"):
        return None
    state: int = libc.adjtimex(ctypes.create_string_buffer(512))  # all zeros: changes nothing
    return None if state < 0 else state != TIME_ERROR


def _tensorrt() -> Iterator[str]:
    for package in TENSORRT:
        with suppress(metadata.PackageNotFoundError):
            yield f"{package} {metadata.version(package)}"


def _memlock(of_unit: str, running: Running) -> int | None:
    if running.pid:
        limits = _text(Path(f"/proc/{running.pid}/limits"))
        found = re.search(r"^Max locked memory +(\S+)", limits, re.MULTILINE)
        if found:
            return -1 if found[1] == "unlimited" else int(found[1])
    if of_unit:
        return int(of_unit) if of_unit.isdecimal() and int(of_unit) < 1 << 63 else -1
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return -1 if soft == resource.RLIM_INFINITY else soft


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def _disks(config: Config, base: Path) -> Iterator[Disk]:
    recording = config.recording
    places = [
        ("models", base / config.models.directory, 0),
        ("engines", _cache(), CACHE_BYTES),
    ]
    if recording.directory:
        places.append(("recordings", base / recording.directory, recording.total_bytes))
    for purpose, path, wanted in places:
        there = next(each for each in (path, *path.absolute().parents) if os.path.exists(each))  # noqa: PTH110  False for what may not be seen
        yield Disk(
            purpose=purpose,
            path=str(there),
            free_bytes=shutil.disk_usage(there).free,
            wanted_bytes=wanted,
        )


# -------------------------------------------------------------------------------------- ports


def _ports(config: Config) -> Iterator[Port]:
    for address in config.transport.bind:
        if address.startswith("ipc://"):
            busy = somebody_listens(Path(address.removeprefix("ipc://")))
            yield Port(key="transport.bind", address=address, state="busy" if busy else "free")
        elif not address.endswith(":*"):
            yield _port("transport.bind", address)
    for key, address in (
        ("ingest.grpc.bind", config.ingest.grpc.bind),
        ("admin.listen", config.admin.listen),
    ):
        if address:
            yield _port(key, address)


def _port(key: str, address: str) -> Port:
    host, _, number = address.removeprefix("tcp://").rpartition(":")
    host = host.strip("[]").replace("*", "")
    if not number.isdecimal() or int(number) > LAST_PORT:
        return Port(key=key, address=address, state="impossible", error="is no HOST:PORT")
    port = int(number)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except socket.gaierror:  # an interface's name
            pass
        except PermissionError:  # a port below 1024: the service may have it all the same
            pass
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                why = error.strerror or str(error)
                return Port(key=key, address=address, state="impossible", error=why)
            pid, name = _holder(port)
            return Port(key=key, address=address, state="busy", holder=name, holder_pid=pid)
    return Port(key=key, address=address, state="free")


def _holder(port: int) -> tuple[int, str]:
    """Return number and name of the process that listens on a TCP port; 0: not to be seen."""
    wanted = {f"socket:[{inode}]" for inode in _inodes(port)}
    pids = [each for each in os.listdir("/proc") if each.isdecimal()][:MOST_PROCESSES]  # noqa: PTH208  names alone
    for pid in pids if wanted else []:
        # It may be another user's, or have ended.
        with suppress(OSError), os.scandir(f"/proc/{pid}/fd") as descriptors:
            if any(os.readlink(each.path) in wanted for each in descriptors):  # noqa: PTH115  faster
                return int(pid), _text(Path(f"/proc/{pid}/comm")).strip()
    return 0, ""


def _inodes(port: int) -> Iterator[str]:
    """Yield those of the sockets that listen on a port (see proc_net_tcp(5))."""
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in _text(table).splitlines()[1:]:
            fields = line.split()
            local, state, inode = fields[1], fields[3], fields[9]
            if state == "0A" and int(local.rpartition(":")[2], 16) == port:
                yield inode


# ------------------------------------------------------------------------------------- models


def _models(config: Config, base: Path) -> tuple[tuple[Model, ...], str, str]:
    """Return the models, where they are, and why they cannot be used with the configuration."""
    directory = base / config.models.directory
    try:
        entries = Repository(directory).scan()
    except ConfigError as error:
        return (), str(directory), str(error)
    models = tuple(
        Model(name=each.name, version=each.version, error=each.error or "") for each in entries
    )
    try:
        slots_of(config, entries)
    except ConfigError as error:
        return models, str(directory), str(error)
    return models, str(directory), ""


def _cache() -> Path:
    """Return that of the service, whoever asks; without one, the caller's own."""
    return SYSTEM_CACHE if SYSTEM_CACHE.parent.is_dir() else default_cache()


def _engines() -> Iterator[Engine]:
    """Yield what is in the cache of engines, without reading engines: they are large."""
    for key, about in EngineCache(_cache()).labels():
        recipe = cast("dict[str, Any]", about.get("recipe") or {})
        yield Engine(
            key=key,
            model=str(about.get("model", "")),
            version=str(about.get("version", "")),
            builder=str(recipe.get("builder", "")),
        )


# ------------------------------------------------------------------------------ the appliance


def _running(path: str) -> Running:
    try:
        answer = admin.get(path, "/v1/status", ANSWER_S)
    except AdminUnreachable as error:
        cause = error.__cause__
        if isinstance(cause, FileNotFoundError):
            return Running(answer="absent")
        if isinstance(cause, PermissionError):
            return Running(answer="forbidden", error=str(error))
        return Running(answer="silent", error=str(error))
    except AdminError as error:
        return Running(answer="silent", error=str(error))
    return _status(answer)


def _status(answer: dict[str, Any] | str) -> Running:
    try:
        document = cast("dict[str, Any]", answer)
        return Running(
            answer="answered",
            state=document["state"],
            reasons=tuple(cast("Sequence[str]", document["reasons"])),
            pid=document["pid"],
            binds=tuple(cast("Sequence[str]", document["binds"])),
        )
    except (KeyError, TypeError):
        said = json.dumps(answer)[:80]
        return Running(answer="silent", error=f"its answer is not understood: {said}")
