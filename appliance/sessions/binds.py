"""The door's socket and its addresses: bound by the door, and tried before there is one."""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import zmq

from appliance.config import Transport
from appliance.errors import ConfigError
from appliance.io.unix_listener import somebody_listens

HEARTBEATS_MISSED = 3

DOMAIN = b"appliance"
"""What doors with keys are called when libzmq asks whom to let in."""

LISTENS = 10
"""State of a TCP socket that listens, `TCP_LISTEN`."""

ACCEPTS = 1 << 16
"""Flag of a socket that listens, `__SO_ACCEPTCON`."""
IPV4 = re.compile(r"tcp://[0-9.]+:")


def new_router(context: zmq.Context[zmq.Socket[bytes]], transport: Transport) -> zmq.Socket[bytes]:
    """Return the door's socket, not bound yet."""
    raw = context.socket(zmq.ROUTER)
    heartbeat_ms = transport.heartbeat_interval_ms
    raw.set(zmq.LINGER, 0)
    raw.set(zmq.ROUTER_MANDATORY, 1)
    raw.set(zmq.RCVHWM, transport.receive_hwm)
    raw.set(zmq.SNDHWM, transport.send_hwm)
    raw.set(zmq.MAXMSGSIZE, 2 * transport.max_message_bytes)
    raw.set(zmq.HEARTBEAT_IVL, heartbeat_ms)
    raw.set(zmq.HEARTBEAT_TIMEOUT, HEARTBEATS_MISSED * heartbeat_ms)
    raw.set(zmq.HEARTBEAT_TTL, HEARTBEATS_MISSED * heartbeat_ms)
    return raw


def bind_all(
    socket: zmq.Socket[bytes], addresses: Sequence[str], secrets: Mapping[str, bytes]
) -> list[str]:
    """Bind addresses, each with a key of its own or with none; return them as bound.

    ZeroMQ remembers at each `bind` which key the socket had then. Those without are bound first:
    once there is a domain to authenticate for, it cannot be taken back.

    Args:
        secrets: The secret key that the appliance has at an address; none for those left out.

    Raises:
        ConfigError: One cannot be bound.
    """
    order = sorted(range(len(addresses)), key=lambda index: addresses[index] in secrets)
    bound: dict[int, str] = {}
    for index in order:
        secret = secrets.get(addresses[index])
        if secret is not None:
            socket.set(zmq.ZAP_DOMAIN, DOMAIN)
            socket.set(zmq.ZAP_ENFORCE_DOMAIN, 1)  # if nobody answers, nobody comes in
            socket.set(zmq.CURVE_SERVER, 1)
            socket.set(zmq.CURVE_SECRETKEY, secret)
        bound[index] = bind(socket, addresses[index])
    return [bound[index] for index in range(len(addresses))]


def bind(socket: zmq.Socket[bytes], address: str) -> str:
    """Bind one address and return it as bound: with the port, where any would do.

    Raises:
        ConfigError: It cannot be bound.
    """
    if address.startswith("ipc://"):
        _check_path(address, Path(address.removeprefix("ipc://")))
    # With IPv6 on, an IPv4 address would be shown as [::ffff:127.0.0.1].
    socket.set(zmq.IPV6, not IPV4.match(address))
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        why = zmq.strerror(error.errno or 0)
        raise ConfigError(
            f"transport.bind: {address}: {why}; name another address, or end whoever uses it"
        ) from error
    return socket.get_string(zmq.LAST_ENDPOINT)


def _check_path(address: str, path: Path) -> None:
    """Refuse what libzmq would simply delete: any file, and the socket of somebody who listens."""
    if path.exists() and not path.is_socket():
        raise ConfigError(
            f"transport.bind: {address}: there is a file that is no socket; remove it, or name "
            "another address"
        )
    if somebody_listens(path):
        raise ConfigError(
            f"transport.bind: {address}: another instance is listening there; stop it, or name "
            "another address"
        )


def try_binds(addresses: Iterable[str]) -> None:
    """Bind each address and let it go again, so that what is wrong shows before models load.

    Robots that wait for the appliance may connect meanwhile. They are turned away in the
    handshake, as it asks for an authentication that nobody does: an observation taken in here
    would be lost without being counted.

    Raises:
        ConfigError: An address cannot be bound.
    """
    with zmq.Context() as context, context.socket(zmq.ROUTER) as probe:
        probe.set(zmq.ZAP_DOMAIN, b"nobody")
        probe.set(zmq.ZAP_ENFORCE_DOMAIN, 1)
        for address in addresses:
            bind(probe, address)


def are_released(addresses: Iterable[str]) -> bool:
    """Return whether nobody listens at any of the addresses any more.

    Nobody is connected to for that: it may be asked often. What is no address counts as released;
    binding it says what is wrong.
    """
    return all(_is_released(address) for address in addresses)


def _is_released(address: str) -> bool:
    transport, _, place = address.partition("://")
    if transport == "ipc":
        return place not in _listening_paths()  # libzmq leaves the file behind
    host, _, port = place.rpartition(":")
    host = host.strip("[]").replace("*", "")
    if transport != "tcp" or not port.isdecimal():
        return True
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except socket.gaierror:  # an interface: whoever listens on the port may be there
            return int(port) not in _listening_ports()
        except OSError as error:
            return error.errno != errno.EADDRINUSE
        return True


def _listening_ports() -> set[int]:
    """Return the TCP ports that somebody on this machine listens on (see proc_net_tcp(5))."""
    ports: set[int] = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        lines = table.read_text("ascii").splitlines()[1:] if table.exists() else []
        for _, local, _, state, *_ in map(str.split, lines):
            if int(state, 16) == LISTENS:
                ports.add(int(local.rpartition(":")[2], 16))
    return ports


def _listening_paths() -> set[str]:
    """Return where on this machine somebody listens on a unix socket (see proc_net(5))."""
    paths: set[str] = set()
    for line in Path("/proc/net/unix").read_text("utf-8", "replace").splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and int(fields[3], 16) & ACCEPTS:
            paths.add(fields[7])
    return paths
