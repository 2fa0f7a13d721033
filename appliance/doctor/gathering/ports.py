"""Addresses to listen at, and who holds them."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from appliance.config import LAST_PORT, Config
from appliance.doctor.facts import Port
from appliance.doctor.gathering.box import text_of
from appliance.io.unix_listener import somebody_listens

MOST_PROCESSES = 100_000


def ports(config: Config) -> Iterator[Port]:
    """Yield every configured address, and whether it can be had."""
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
                return int(pid), text_of(Path(f"/proc/{pid}/comm")).strip()
    return 0, ""


def _inodes(port: int) -> Iterator[str]:
    """Yield those of the sockets that listen on a port (see proc_net_tcp(5))."""
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in text_of(table).splitlines()[1:]:
            fields = line.split()
            local, state, inode = fields[1], fields[3], fields[9]
            if state == "0A" and int(local.rpartition(":")[2], 16) == port:
                yield inode
